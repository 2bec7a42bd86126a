use super::{BadLines, Line, Options, WantedNames, scan};
use proptest::prelude::*;

/// The samples of a page as owned text: series and bits of the value.
fn read(page: &[u8], wanted: &WantedNames) -> Vec<(String, String, u64)> {
    let mut seen = Vec::new();
    let _ = scan(page, wanted, &Options::default(), |line| {
        if let Line::Sample(sample) = line {
            seen.push((sample.name.into_owned(), sample.series.to_owned(), sample.value.to_bits()));
        }
    });
    seen
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(page in proptest::collection::vec(any::<u8>(), 0..400)) {
        read(&page, &WantedNames::all());
        read(&page, &WantedNames::families(["a"]));
    }

    #[test]
    fn near_misses_never_panic(page in "([ab:{}=\"\\\\,#\n\r\t .0-9é]|# TYPE |# HELP |# EOF|counter|NaN){0,60}") {
        read(page.as_bytes(), &WantedNames::all());
        let strict = Options { bad_lines: BadLines::Fail, ..Options::default() };
        let _ = scan(page.as_bytes(), &WantedNames::all(), &strict, |_| {});
    }

    #[test]
    fn what_is_printed_is_read_back(
        name in "[a-z_:][a-z0-9_:]{0,12}",
        labels in proptest::collection::btree_map("[a-z_][a-z0-9_]{0,6}", any::<String>(), 0..5),
        value in any::<f64>(),
    ) {
        let text: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let page = format!("{name}{{{}}} {value}\n", text.join(","));
        let mut seen = 0;
        scan(page.as_bytes(), &WantedNames::all(), &Options::default(), |line| {
            if let Line::Sample(sample) = line {
                seen += 1;
                assert_eq!(sample.name, name);
                assert_eq!(sample.labels.iter().map(|(n, v)| (n.into_owned(), v.into_owned())).collect::<Vec<_>>(), labels.clone().into_iter().collect::<Vec<_>>());
                assert!(sample.value == value || (sample.value.is_nan() && value.is_nan()));
            }
        }).expect("page");
        prop_assert_eq!(seen, 1);
    }

    #[test]
    fn a_bad_line_costs_no_good_one(lines in proptest::collection::vec(prop_oneof!["a\\{x=\"[a-z]\"\\} [0-9]{1,3}", "[a-c]\\{[a-z=]{0,4}", "[?!]{1,5}"], 1..30)) {
        let good: Vec<_> = lines.iter().filter(|line| line.contains('}')).collect();
        let page = lines.join("\n");
        prop_assert_eq!(read(page.as_bytes(), &WantedNames::all()).len(), good.len());
    }

    #[test]
    fn decimals_are_the_nearest_doubles(text in prop_oneof!["[0-9]{1,22}(\\.[0-9]{0,22})?", "[-+]?[0-9]{0,17}\\.?[0-9]{0,17}(e[-+]?[0-9]{1,3})?"]) {
        let want: Option<u64> = text.parse().ok().map(f64::to_bits);
        prop_assert_eq!(super::parse_float(&text).map(f64::to_bits), want);
        let line = format!("a {text}");
        prop_assert_eq!(read(line.as_bytes(), &WantedNames::all()).first().map(|sample| sample.2), want);
    }

    #[test]
    fn a_quoted_value_ends_at_its_first_bare_quote(value in "([a-z!#\\[\\]]|é|\\\\\\\\|\\\\\"){0,30}", rest in "[a-z\"\\\\]{0,20}") {
        let text = format!("{value}\"{rest}");
        prop_assert_eq!(super::read_quoted(&text), Ok((value.as_str(), rest.as_str())));
    }

    #[test]
    fn sets_of_names_have_what_was_put_in_and_nothing_else(
        one in proptest::collection::btree_set("[a-c:_]{1,20}", 0..30),
        two in proptest::collection::btree_set("[a-c:_]{1,20}", 0..30),
        other in "[a-c:_]{1,20}",
    ) {
        let union = WantedNames::exact(&one).union(&WantedNames::exact(&two));
        let folded: std::collections::BTreeSet<_> = one.iter().chain(&two).map(|name| name.replace(':', "_")).collect();
        for name in one.iter().chain(&two).chain([&other]) {
            prop_assert_eq!(union.wants(name), folded.contains(&name.replace(':', "_")));
            prop_assert_eq!(union.wants(&name.replace(':', "_")), union.wants(name));
        }
        prop_assert!(union.union(&WantedNames::all()).wants(&other));
    }

    #[test]
    fn filtering_while_reading_is_filtering_afterwards(
        lines in proptest::collection::vec("(# HELP |# TYPE |)(a|ab|a:b|a_b|a_b_total|b|ray_a_b|a_long_name_of_some_family)(\\{x=\"1\"\\}|) [0-9]", 0..40),
    ) {
        let page = lines.join("\n");
        let wanted = WantedNames::families(["a:b", "b"]);
        let mut all = read(page.as_bytes(), &WantedNames::all());
        all.retain(|(name, _, _)| wanted.wants(name));
        prop_assert_eq!(read(page.as_bytes(), &wanted), all);
    }
}
