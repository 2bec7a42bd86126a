use super::*;
use proptest::prelude::*;
use serde_json::Value;

#[test]
fn members_are_found_wherever_they_stand() {
    struct Case {
        name: &'static str,
        input: &'static str,
        model: Option<&'static str>,
        stream: Option<bool>,
        tokens: (Option<u64>, Option<u64>),
    }
    for Case { name, input, model, stream, tokens } in [
        Case { name: "empty", input: "{}", model: None, stream: None, tokens: (None, None) },
        Case {
            name: "last",
            input: r#"{"messages":[{"model":"no","stream":true}],"x":{"model":1},"model":"m"}"#,
            model: Some("m"),
            stream: None,
            tokens: (None, None),
        },
        Case {
            name: "all",
            input: " { \"model\" : \"a/b\" , \"stream\" : true, \"max_tokens\":16,\"max_completion_tokens\":9 }\n",
            model: Some("a/b"),
            stream: Some(true),
            tokens: (Some(16), Some(9)),
        },
        Case {
            name: "escapes",
            input: r#"{"mod\u0065l":"a\/\u00e9\ud83d\ude00\n\ud83d","stream":false}"#,
            model: Some("a/é😀\n\u{fffd}"),
            stream: Some(false),
            tokens: (None, None),
        },
        Case {
            name: "repeated",
            input: r#"{"model":"a","model":"b"}"#,
            model: Some("b"),
            stream: None,
            tokens: (None, None),
        },
        Case {
            name: "other types",
            input: r#"{"model":null,"stream":"true","max_tokens":1.5,"max_completion_tokens":-1}"#,
            model: None,
            stream: None,
            tokens: (None, None),
        },
    ] {
        let found = classify(input.as_bytes()).unwrap();
        assert_eq!(found.model.as_deref(), model, "{name}");
        assert_eq!(found.stream, stream, "{name}");
        assert_eq!((found.max_tokens, found.max_completion_tokens), tokens, "{name}");
    }
}

#[test]
fn a_plain_model_name_is_not_copied() {
    assert!(matches!(classify(br#"{"model":"m"}"#).unwrap().model, Some(Cow::Borrowed("m"))));
}

#[test]
fn faults_name_their_place() {
    let deep = format!("{{\"a\":{}", "[".repeat(200));
    for (input, expect) in [
        (&b""[..], Some(0)),
        (b"{", Some(1)),
        (b"{\"model\":\"m\",}", Some(13)),
        (b"{\"model\":\"m\"} x", Some(14)),
        (b"{\"a\":[1,]}", Some(8)),
        (b"{\"a\":01}", Some(6)),
        (b"{\"a\":1.}", Some(7)),
        (b"{\"a\":\"\x01\"}", Some(6)),
        (b"{\"a\":\"\\x\"}", Some(7)),
        (b"{\"a\":tru}", Some(8)),
        (b"{\"a\":[}", Some(6)),
        (b"{\"model\":7}", Some(9)),
        (b"{\"a\":\"\xff\"}", Some(6)),
        (b"[1]", None),
        (b"\"x\"", None),
        (deep.as_bytes(), Some(131)),
    ] {
        let error = classify(input).expect_err("must be refused");
        assert_eq!(error.offset(), expect, "{}: {error}", String::from_utf8_lossy(input));
    }
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e300..1e300).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[ -~]{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((name(), inner), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("model".to_owned()),
        Just("stream".to_owned()),
        Just("max_tokens".to_owned()),
        Just("max_completion_tokens".to_owned()),
        any::<String>(),
    ]
}

fn check(text: &[u8]) -> Result<(), TestCaseError> {
    let ours = classify(text);
    match serde_json::from_slice::<Value>(text) {
        Ok(Value::Object(members)) => match members.get("model") {
            Some(Value::String(_) | Value::Null) | None => {
                let ours = ours.map_err(|e| TestCaseError::fail(format!("{e}: {}", String::from_utf8_lossy(text))))?;
                prop_assert_eq!(ours.model.as_deref(), members.get("model").and_then(Value::as_str));
                prop_assert_eq!(ours.stream, members.get("stream").and_then(Value::as_bool));
                prop_assert_eq!(ours.max_tokens, members.get("max_tokens").and_then(Value::as_u64));
                let completion = members.get("max_completion_tokens").and_then(Value::as_u64);
                prop_assert_eq!(ours.max_completion_tokens, completion);
            }
            Some(_) => prop_assert!(matches!(ours, Err(ClassifyError::Model { .. })), "a model of another type"),
        },
        Ok(_) => prop_assert_eq!(ours, Err(ClassifyError::NotAnObject)),
        Err(error) => {
            // serde_json reads values: it also refuses numbers beyond a double and halves of surrogate pairs.
            let text = error.to_string();
            let stricter = text.contains("out of range") || text.contains("surrogate") || text.contains("hex escape");
            prop_assert!(ours.is_err() || stricter, "{}", error);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn agrees_with_serde_json_on_documents(
        members in prop::collection::vec((name(), json()), 0..6),
        pretty: bool,
    ) {
        let value = Value::Object(members.into_iter().collect());
        let text = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) }.unwrap();
        check(&text)?;
    }

    #[test]
    fn agrees_with_serde_json_on_damaged_documents(
        value in json(), at: prop::sample::Index, with: u8, cut: bool,
    ) {
        let mut text = serde_json::to_vec(&serde_json::json!({"model": "m", "stream": true, "x": value})).unwrap();
        let at = at.index(text.len());
        if cut { text.truncate(at); } else { text[at] = with; }
        check(&text)?;
    }

    #[test]
    fn agrees_with_serde_json_on_noise(text in "[\\[\\]{}:,\"\\\\ntrue0-9.eE+ -]{0,24}") {
        check(text.as_bytes())?;
    }
}
