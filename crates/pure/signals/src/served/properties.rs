//! What must hold for any page and any order.

use super::tests::{NS, pod, secs};
use super::*;
use crate::dialect::{self, NamedQueries, NamedQuery, Reading};
use proptest::prelude::*;
use std::path::Path;

#[expect(clippy::disallowed_methods, reason = "the captures are files of the repository")]
fn captures() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../testdata/metrics"));
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("the captures").map(|file| file.expect("a file").path()).collect();
    files.sort();
    files.iter().map(|path| (path.display().to_string(), std::fs::read(path).expect("a capture"))).collect()
}

/// A reading as far as both ways of reading must agree: bad lines are counted among all lines here, among wanted ones there.
fn comparable(reading: Reading) -> Reading {
    Reading { rejected_lines: 0, errors: Vec::new(), ..reading }
}

#[test]
fn every_capture_reads_as_the_dialects_read_it_first_again_and_after_any_other() {
    let captures = captures();
    let queries = ["vllm_num_requests_waiting", "sglang:num_queue_reqs", "llamacpp:requests_deferred"]
        .map(|name| NamedQuery { name: name.to_owned(), matching: Labels::new() });
    let named = NamedQueries::new(&queries);
    let mut served = Served::new(ServedLimits::default());
    served.set_pods(vec![pod("a", "llm")]);
    let source = PageSource::new(NS, "a");
    let mut at = 0;
    for (name, text) in captures.iter().flat_map(|one| [one, one]).chain(captures.iter().rev()) {
        at += 1;
        let expect = dialect::read_with(text, None, &named, &Limits::default()).expect(name);
        let page = Page { named: Some(&named), ..Page::new(&source, secs(at), text) };
        assert_eq!(comparable(served.page(&page).expect(name)), comparable(expect), "{name}");
    }
    served.set_pods(Vec::new());
    assert_eq!((served.bytes(), served.shared_count()), (0, (0, 0)));
    assert_eq!(served.custom_names().len(), 0);
}

fn line() -> impl Strategy<Value = String> {
    let name = prop_oneof!["vllm:num_requests_waiting", "sglang:num_queue_reqs", "[a-c]{1,2}"];
    let labels = prop_oneof![
        Just(String::new()),
        "\\{e=\"[0-2]\"\\}",
        "\\{pod=\"[a-c]\",namespace=\"ai\"\\}",
        "\\{priority=\"[12]?\",tp_rank=\"[01]\"\\}",
    ];
    let value = prop_oneof!["[0-9]{1,3}", "NaN", "[0-9]\\.[0-9]{1,3}", "1 99994[0-9]000", "x"];
    prop_oneof![
        8 => (name.clone(), labels, value).prop_map(|(name, labels, value)| format!("{name}{labels} {value}")),
        1 => name.prop_map(|name| format!("# TYPE {name} gauge")),
        1 => Just("# HELP a b".to_owned()),
        1 => "[ -~]{0,12}",
    ]
}

fn page() -> impl Strategy<Value = String> {
    prop::collection::vec(line(), 0..12).prop_map(|lines| lines.join("\n") + "\n")
}

const METRICS: [&str; 8] =
    ["a", "b", "ab", "vllm:num_requests_waiting", "sglang_num_queue_reqs", "loadline:requests_waiting", "c", "ca"];

/// Everything that can be asked.
fn answers(served: &Served) -> Vec<String> {
    let all = Selector::all();
    let of = |metric: &&str| {
        let pods = served.pods_metric(secs(5), NS, &all, metric, &all);
        let sum = served.external(secs(5), NS, metric, &Selector::equal([("app", "llm")]));
        let explained = served.explain(secs(5), NS, &all, metric, &all);
        format!("{metric}: {pods:?} {sum:?} {explained:?}")
    };
    METRICS.iter().map(of).collect()
}

proptest! {
    #[test]
    fn no_bytes_panic(pages in prop::collection::vec((0_usize..3, prop::collection::vec(any::<u8>(), 0..200)), 0..8)) {
        let mut served = Served::new(ServedLimits::default());
        served.set_pods(["a", "b", "c"].map(|name| pod(name, "llm")).to_vec());
        for (at, (who, text)) in (0..).zip(&pages) {
            let source = PageSource::new(NS, ["a", "b", "c"][*who]);
            let _ = served.page(&Page::new(&source, secs(at), text));
        }
        prop_assert_eq!(answers(&served).len(), METRICS.len());
        served.set_pods(Vec::new());
        prop_assert_eq!((served.bytes(), served.shared_count()), (0, (0, 0)));
    }

    #[test]
    fn the_order_of_pages_does_not_matter(
        pages in prop::collection::vec((0_usize..3, 0_i64..4, page()), 0..12),
        order in prop::collection::vec(any::<u32>(), 12),
    ) {
        // of two pages of one source with one time only one can be the last
        let mut kept: BTreeMap<(usize, i64), String> = BTreeMap::new();
        for (who, at, text) in pages {
            kept.entry((who, at)).or_insert(text);
        }
        let mut shuffled: Vec<_> = kept.iter().zip(&order).collect();
        shuffled.sort_by_key(|(_, order)| **order);
        let fill = |pages: Vec<(&(usize, i64), &String)>| {
            let mut served = Served::new(ServedLimits::default());
            served.set_pods(["a", "b", "c"].map(|name| pod(name, "llm")).to_vec());
            for ((who, at), text) in pages {
                let _ = served.page(&Page::new(&PageSource::new(NS, ["a", "b", "c"][*who]), secs(*at), text.as_bytes()));
            }
            served
        };
        let (one, two) = (fill(kept.iter().collect()), fill(shuffled.into_iter().map(|(page, _)| page).collect()));
        prop_assert_eq!(answers(&one), answers(&two));
        prop_assert_eq!(one.custom_names(), two.custom_names());
        prop_assert_eq!((one.bytes(), one.shared_count()), (two.bytes(), two.shared_count()));
    }

    #[test]
    fn a_page_reads_alike_whatever_came_before_it(before in page(), after in page()) {
        let mut served = Served::new(ServedLimits::default());
        served.set_pods(vec![pod("a", "llm")]);
        let source = PageSource::new(NS, "a");
        let _ = served.page(&Page::new(&source, secs(0), before.as_bytes()));
        let got = served.page(&Page::new(&source, secs(1), after.as_bytes()));
        let mut fresh = Served::new(ServedLimits::default());
        fresh.set_pods(vec![pod("a", "llm")]);
        let expect = fresh.page(&Page::new(&source, secs(1), after.as_bytes()));
        prop_assert_eq!(&got, &expect);
        if got.is_ok() {
            prop_assert_eq!(answers(&served), answers(&fresh));
            prop_assert_eq!(served.bytes(), fresh.bytes());
        }
        let plain = dialect::read(after.as_bytes(), None, &Limits::default());
        if let (Ok(got), Ok(plain)) = (got, plain) {
            prop_assert_eq!(comparable(got), comparable(plain));
        }
    }
}
