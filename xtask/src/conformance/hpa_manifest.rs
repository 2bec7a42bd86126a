//! The vector kinds that `manifest` answers: `validation`, `defaulting` and `status_quantity`.

use loadline_base::QuantityFormat;
use loadline_manifest::hpa::{Direction, Hpa, Operation, ScalingRules, default_rules, status_quantity, validate};
use loadline_policy::hpa::Gates;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Runs one vector.
///
/// # Errors
/// What differs from what was expected.
pub(super) fn run_vector(kind: &str, input: &Value, expected: &Value) -> Result<(), String> {
    match kind {
        "validation" => validation(input, expected),
        "defaulting" => defaulting(input, expected),
        "status_quantity" => quantity(input, expected),
        other => Err(format!("kind `{other}` is not one of validation, defaulting, status_quantity")),
    }
}

fn read<T: DeserializeOwned>(value: &Value, what: &str) -> Result<T, String> {
    T::deserialize(value).map_err(|error| format!("{what}: {error}"))
}

fn validation(input: &Value, expected: &Value) -> Result<(), String> {
    let gate = |name: &str, default: bool| input["gates"].get(name).and_then(Value::as_bool).unwrap_or(default);
    let gates = Gates {
        scale_to_zero: gate("HPAScaleToZero", false),
        configurable_tolerance: gate("HPAConfigurableTolerance", true),
        ..Gates::default()
    };
    // what the types themselves refuse (an unknown field, a broken quantity), the API server refuses when it decodes
    let decoded = read::<Hpa>(&input["hpa"], "hpa");
    let old = input.get("old").filter(|old| !old.is_null()).map(|old| read::<Hpa>(old, "old")).transpose()?;
    let errors: Vec<String> = match &decoded {
        Err(error) => vec![error.clone()],
        Ok(hpa) => {
            let operation = old.as_ref().map_or(Operation::Create, |old| Operation::Update { old });
            validate(hpa, &gates, operation).iter().map(ToString::to_string).collect()
        }
    };
    let valid = expected["valid"].as_bool().ok_or("expected.valid is missing")?;
    if valid != errors.is_empty() {
        return Err(format!("valid should be {valid}; errors: {errors:?}"));
    }
    match expected.get("error_contains").and_then(Value::as_str) {
        Some(part) if !errors.iter().any(|error| error.contains(part)) => {
            Err(format!("no error contains {part:?}; errors: {errors:?}"))
        }
        _ => Ok(()),
    }
}

fn defaulting(input: &Value, expected: &Value) -> Result<(), String> {
    let direction = match input["direction"].as_str() {
        Some("scaleUp") => Direction::Up,
        Some("scaleDown") => Direction::Down,
        other => return Err(format!("direction {other:?} is not scaleUp or scaleDown")),
    };
    let written = if input["rules"].is_null() { None } else { Some(read::<ScalingRules>(&input["rules"], "rules")?) };
    let wanted = read::<ScalingRules>(&expected["rules"], "expected.rules")?;
    let got = default_rules(direction, written);
    if got == wanted { Ok(()) } else { Err(format!("rules should be {wanted:?}, are {got:?}")) }
}

fn quantity(input: &Value, expected: &Value) -> Result<(), String> {
    let resource = input["resource"].as_str().ok_or("resource is missing")?;
    let milli = input["milli"].as_i64().ok_or("milli is missing")?;
    let got = status_quantity(resource, milli);
    let format = match got.format() {
        QuantityFormat::DecimalSi => "DecimalSI",
        QuantityFormat::BinarySi => "BinarySI",
        QuantityFormat::DecimalExponent => "DecimalExponent",
    };
    for (field, got) in [("quantity", got.to_string()), ("format", format.to_owned())] {
        let wanted = expected[field].as_str().unwrap_or_default();
        if got != wanted {
            return Err(format!("{field} should be {wanted:?}, is {got:?}"));
        }
    }
    Ok(())
}
