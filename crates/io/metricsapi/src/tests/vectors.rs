//! The HTTP, authorization and value vectors of prometheus-adapter 0.12 (`testdata/adapter`).

use super::{Table, World};
use crate::bodies::quantity;
use crate::route::{Attributes, attributes, segments};
use loadline_base::{Quantity, QuantityFormat};
use serde_json::{Value, json};
use std::sync::Arc;

/// Cases whose note calls the expectation an upstream defect, with the status that we give and why.
const OURS: [(&str, u64, &str); 2] = [
    ("cm-bad-metric-selector", 400, "a selector that does not parse is the client's error"),
    ("em-unknown-metric-sample-provider", 404, "a metric that does not exist is not an empty list"),
];

fn vectors(name: &str) -> Value {
    let path = format!("{}/../../../testdata/adapter/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(&path).expect(&path)).expect(&path)
}

#[tokio::test]
async fn every_path_answers_as_the_vectors_say() {
    let world = World::start(Arc::new(Table), |_| {});
    let mut session = world.master().await;
    let vectors = vectors("api-http.json");
    for case in vectors["cases"].as_array().expect("cases") {
        let (id, path) = (case["id"].as_str().expect("id"), case["path"].as_str().expect("path"));
        let ours = OURS.iter().find(|(known, _, _)| *known == id);
        assert_eq!(ours.is_some(), case["note"].as_str().is_some_and(|note| note.contains("defect")), "{id}");
        let status = ours.map_or(case["expect"]["status"].as_u64().expect("status"), |(_, status, _)| *status);
        // clients write the star of all objects either way
        for path in [path.to_owned(), path.replace('*', "%2A")] {
            let answer = session.get(&path).await;
            assert_eq!(u64::from(answer.status.as_u16()), status, "{id}: {}", answer.text);
            if status == 200 {
                assert_eq!(answer.headers["content-type"], "application/json", "{id}");
                let items = answer.json()["items"].as_array().map(Vec::len).map(|count| json!(count));
                assert_eq!(items, Some(case["expect"]["items"].clone()), "{id}");
            } else {
                assert!(!answer.message().is_empty(), "{id}");
            }
        }
    }
    world.handle.shutdown().await;
}

#[test]
fn access_reviews_get_the_attributes_of_the_vectors() {
    let vectors = vectors("api-http.json");
    for case in vectors["authorization"].as_array().expect("authorization") {
        let (id, expect) = (case["id"].as_str().expect("id"), &case["expect"]);
        if expect["skipped"] == true {
            continue; // health checks are answered before anybody is asked: see the tests of authentication
        }
        let got = match attributes(&segments(case["path"].as_str().expect("path")).expect("segments"), false) {
            Attributes::Path { verb, path } => json!({"nonResource": true, "verb": verb, "path": path}),
            Attributes::Resource(of) => json!({"verb": of.verb, "apiGroup": of.group, "apiVersion": of.version,
                "namespace": of.namespace, "resource": of.resource, "subresource": of.subresource, "name": of.name}),
        };
        assert_eq!(got, *expect, "{id}");
    }
}

#[test]
fn values_are_printed_as_the_vectors_say() {
    let vectors = vectors("values-and-config.json");
    let mut seen = 0;
    for case in vectors["cases"].as_array().expect("cases") {
        let (id, input, expect) = (case["id"].as_str().expect("id"), &case["input"], &case["expect"]["value"]);
        let got = match case["op"].as_str().expect("op") {
            "milli_to_quantity_decimalSI" => Quantity::from_milli(input.as_i64().expect("milli")).to_string(),
            "milli_to_quantity_binarySI" => {
                let quantity = Quantity::from_milli(input.as_i64().expect("milli"));
                quantity.with_format(QuantityFormat::BinarySi).to_string()
            }
            "custom_sample_to_quantity" | "external_sample_to_quantity" => match input.as_f64() {
                Some(value) => quantity(value).expect(id).to_string(),
                // not a number is no value; both adapters' answers to it are called defects
                None => {
                    assert_eq!(quantity(f64::NAN), None, "{id}");
                    seen += 1;
                    continue;
                }
            },
            _ => continue, // rules, flags and query results
        };
        assert_eq!(got, expect.as_str().expect("text"), "{id}");
        seen += 1;
    }
    assert!(seen >= 16, "{seen} cases");
}

#[test]
fn values_beyond_the_vectors() {
    for (value, text) in [
        (0.0, Some("0")),
        (-0.0, Some("0")),
        (0.85, Some("850m")),
        (0.0004, Some("0")),
        (-0.0009, Some("0")),
        (-1.9999, Some("-1999m")),
        (12345.0, Some("12345")),
        (1e15, Some("1P")),
        (9.3e15, None),
        (-9.3e15, None),
        (f64::INFINITY, None),
        (f64::NEG_INFINITY, None),
    ] {
        assert_eq!(quantity(value).map(|quantity| quantity.to_string()).as_deref(), text, "{value}");
    }
}
