use super::*;
use std::io::{BufReader, Cursor};

fn load(text: &str) -> Result<Trace, TraceError> {
    read_all(Cursor::new(text.as_bytes().to_vec()), Limits::default())
}

fn request(nanos: u64, input: u32, output: u32) -> Request {
    Request { arrival: Duration::from_nanos(nanos), input_tokens: input, output_tokens: output, ..Request::default() }
}

#[test]
fn every_form_is_told_from_its_first_line() {
    struct Case {
        name: &'static str,
        text: &'static str,
        format: Format,
        expect: Vec<Request>,
    }
    let hashed = |nanos, input, output, hashes: &[u64]| Request {
        prefix_hashes: hashes.to_vec(),
        ..request(nanos, input, output)
    };
    let tenant =
        |nanos, input, output, client: &str| Request { client: Some(client.into()), ..request(nanos, input, output) };
    let cases = [
        Case {
            name: "own",
            text: "arrival_s,input_tokens,output_tokens\n0.000,374,44\n4.315,396,109\n",
            format: Format::Own,
            expect: vec![request(0, 374, 44), request(4_315_000_000, 396, 109)],
        },
        Case {
            name: "own with client, byte order mark, CRLF, blank lines, no last line end",
            text: "\u{feff}arrival_s,input_tokens,output_tokens,client\r\n\r\n1.5,10,2,a\r\n2,11,3,\"b,\"\"c\"\r\n2,12,4,",
            format: Format::Own,
            expect: vec![
                tenant(1_500_000_000, 10, 2, "a"),
                tenant(2_000_000_000, 11, 3, "b,\"c"),
                request(2_000_000_000, 12, 4),
            ],
        },
        Case {
            name: "columns in another order, further ones, floats that are whole",
            text: "id,output_tokens,arrival_s,input_tokens\n7,3.0,0.25,1e3\n",
            format: Format::Own,
            expect: vec![request(250_000_000, 1000, 3)],
        },
        Case {
            name: "azure 2023: seven digits, the earliest is time 0",
            text: "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n",
            format: Format::Azure,
            expect: vec![request(0, 374, 44), request(4_314_579_000, 396, 109)],
        },
        Case {
            name: "azure 2024: offset, unsorted, over a leap day",
            text: "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-03-01 00:00:00+00:00,1,2\n2024-02-28 23:59:59.5+00:00,3,4\n2024-02-29 01:00:00+01:00,5,6\n",
            format: Format::Azure,
            expect: vec![request(0, 3, 4), request(500_000_000, 5, 6), request(86_400_500_000_000, 1, 2)],
        },
        Case {
            name: "burstgpt, six columns",
            text: "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,1087,0,1087,API log\n",
            format: Format::BurstGpt,
            expect: vec![request(5_000_000_000, 472, 18), request(45_000_000_000, 1087, 0)],
        },
        Case {
            name: "burstgpt, eight columns",
            text: "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n5.5,12,1.25,ChatGPT,472,18,490,Conversation log\n",
            format: Format::BurstGpt,
            expect: vec![request(5_500_000_000, 472, 18)],
        },
        Case {
            name: "mooncake: milliseconds",
            text: "{\"timestamp\":0,\"input_length\":904,\"output_length\":370,\"hash_ids\":[0,34850]}\n{\"timestamp\": 3000, \"input_length\": 7, \"output_length\": 1, \"hash_ids\": []}\n",
            format: Format::Mooncake,
            expect: vec![hashed(0, 904, 370, &[0, 34850]), request(3_000_000_000, 7, 1)],
        },
        Case {
            name: "bailian: seconds",
            text: "{\"chat_id\":159,\"parent_chat_id\":-1,\"timestamp\":61.114,\"input_length\":521,\"output_length\":132,\"type\":\"text\",\"turn\":2,\"hash_ids\":[1089,18446744073709551615]}\n",
            format: Format::Bailian,
            expect: vec![hashed(61_114_000_000, 521, 132, &[1089, u64::MAX])],
        },
    ];
    for case in cases {
        let trace = load(case.text).expect(case.name);
        assert_eq!(trace.format, case.format, "{}", case.name);
        assert_eq!(trace.requests, case.expect, "{}", case.name);
    }
    assert_eq!(Format::Mooncake.prefix_block_tokens(), Some(512));
    assert_eq!(Format::Bailian.prefix_block_tokens(), Some(16));
}

#[test]
fn what_cannot_be_used_is_named_with_its_place() {
    const OWN: &str = "arrival_s,input_tokens,output_tokens\n";
    for (body, expect) in [
        ("", "the trace is empty"),
        ("\n \n", "the trace is empty"),
        ("1.0,2,3\n", "line 1: `1.0,2,3` is no trace header"),
        ("{\"timestamp\":", "line 1: `{\"timestamp\":` is no trace header"),
        ("OWN0,1\n", "line 2: the column `output_tokens` is missing: the row has 2 fields"),
        ("OWN0,1,2\n\nNaN,1,2\n", "line 4, column `arrival_s`: `NaN` is not a number of seconds"),
        ("OWN-0.5,1,2\n", "line 2, column `arrival_s`: `-0.5` is not"),
        ("OWNinf,1,2\n", "line 2, column `arrival_s`: `inf` is not"),
        ("OWN1e300,1,2\n", "line 2, column `arrival_s`: `1e300` is not"),
        ("OWN0,-1,2\n", "line 2, column `input_tokens`: `-1` is not a whole number"),
        ("OWN0,1,2.5\n", "line 2, column `output_tokens`: `2.5` is not a whole number"),
        ("OWN0,1,4294967296\n", "line 2, column `output_tokens`: `4294967296` is not"),
        ("OWN0,,2\n", "line 2, column `input_tokens`: `` is not"),
        ("OWN0,\u{661},2\n", "line 2, column `input_tokens`: `\u{661}` is not"),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-02-29 00:00:00,1,2\n",
            "line 2, column `TIMESTAMP`: `2023-02-29 00:00:00` is not a time",
        ),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n1700158546,1,2\n", "line 2, column `TIMESTAMP`"),
        ("{\"timestamp\":0,\"input_length\":1,\"output_length\":1}\n{}\n", "line 2: not a JSON object"),
        (
            "{\"timestamp\":-1,\"input_length\":1,\"output_length\":1}\n",
            "line 1, column `timestamp`: `-1` is not a number of milliseconds",
        ),
        (
            "{\"timestamp\":0,\"input_length\":\"1\",\"output_length\":1}\n",
            "line 1, column `input_length`: `\"1\"` is not",
        ),
    ] {
        let text = body.replace("OWN", OWN);
        let error = load(&text).expect_err(body).to_string();
        assert!(error.starts_with(expect), "{body:?}: {error}");
    }
}

#[test]
fn long_lines_and_the_bounds_of_a_whole_read() {
    let text = format!("arrival_s,input_tokens,output_tokens\n0,1,2{}\n", " ".repeat(100));
    let limits = Limits { line_bytes: 64, ..Limits::default() };
    // the buffer is smaller than the line: the limit holds across refills
    let error = read_all(BufReader::with_capacity(16, text.as_bytes()), limits).expect_err("too long");
    assert_eq!(error.to_string(), "line 2 is longer than 64 bytes: split it, or raise the line limit");

    let text = "arrival_s,input_tokens,output_tokens\n3,1,2\n1,3,4\n2,5,6\n";
    let limits = Limits { until: Duration::from_secs(3), ..Limits::default() };
    let kept = read_all(text.as_bytes(), limits).expect("readable").requests;
    assert_eq!(kept, [request(1_000_000_000, 3, 4), request(2_000_000_000, 5, 6)]);
    let limits = Limits { requests: 1, ..Limits::default() };
    assert_eq!(read_all(text.as_bytes(), limits).expect("readable").requests, [request(3_000_000_000, 1, 2)]);
}

#[test]
fn streaming_keeps_the_order_and_refuses_to_go_back() {
    let text = "arrival_s,input_tokens,output_tokens\n1,1,2\n1,3,4\n0.5,5,6\n2,7,8\n";
    let mut reader = Reader::new(text.as_bytes(), Limits::default()).expect("a header");
    assert_eq!(reader.format(), Format::Own);
    assert_eq!(reader.next().expect("first").expect("good"), request(1_000_000_000, 1, 2));
    assert_eq!(reader.next().expect("second").expect("good"), request(1_000_000_000, 3, 4));
    let error = reader.next().expect("third").expect_err("goes back").to_string();
    assert!(error.starts_with("line 4: arrival 0.5 s is before the previous one at 1 s"), "{error}");
    assert!(reader.next().is_none(), "ended by the error");
}

#[test]
fn the_recorded_traces_read_whole() {
    let root = std::env::var_os("LOADLINE_SHARED").map_or_else(
        || std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../../shared")),
        std::path::PathBuf::from,
    );
    let path = root.join("traces/excerpt-azure-2023-conv-10min.csv");
    let Ok(file) = std::fs::File::open(&path) else {
        return eprintln_skipped(&path);
    };
    let trace = read_all(BufReader::new(file), Limits::default()).expect("readable");
    assert_eq!(trace.requests.len(), 4468);
    assert!(trace.requests.iter().all(|request| request.arrival < Duration::from_secs(600)));
}

#[expect(clippy::disallowed_macros, reason = "a skipped check is said aloud")]
fn eprintln_skipped(path: &std::path::Path) {
    eprintln!("skipped: `{}` is not there; set LOADLINE_SHARED", path.display());
}

proptest::proptest! {
    #[test]
    fn nothing_panics(text in "(arrival_s,input_tokens,output_tokens\n|TIMESTAMP,ContextTokens,GeneratedTokens\n|\\{)?[-0-9:., \"TZ+e{}a-z\n]{0,120}") {
        let _ = load(&text);
    }

    #[test]
    fn what_is_written_is_read_back(rows in proptest::collection::vec((0_u32..100_000_000, 0_u32..200_000, 0_u32..40_000), 0..50)) {
        use std::fmt::Write as _;
        let mut text = "arrival_s,input_tokens,output_tokens\n".to_owned();
        let mut expect = Vec::new();
        for (millis, input, output) in rows {
            writeln!(text, "{}.{:03},{input},{output}", millis / 1000, millis % 1000).expect("a string");
            expect.push(request(u64::from(millis) * 1_000_000, input, output));
        }
        expect.sort_by_key(|request| request.arrival);
        proptest::prop_assert_eq!(load(&text).expect("readable").requests, expect);
    }
}
