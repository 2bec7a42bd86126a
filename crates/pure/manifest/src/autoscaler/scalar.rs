//! Scalars of the API that JSON has no type for.

use crate::config::Span;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The most characters of a quantity.
pub const QUANTITY_CHARS: u32 = 32;
/// The most characters of a duration.
pub const DURATION_CHARS: u32 = 32;
/// A quantity without a sign: nothing in this API is negative.
pub const QUANTITY_PATTERN: &str =
    r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?[0-9]{1,3})?$";
/// A duration; digits are bounded so that every text that matches can be represented.
pub const DURATION_PATTERN: &str = r"^([0-9]{1,4}(\.[0-9]{1,3})?d)?([0-9]{1,5}(\.[0-9]{1,3})?h)?([0-9]{1,6}(\.[0-9]{1,3})?m)?([0-9]{1,8}(\.[0-9]{1,3})?s)?([0-9]{1,9}ms)?$";

/// The schema of a [`loadline_base::Quantity`]; never a value.
#[derive(Debug, Clone, Copy)]
pub struct QuantityText;

impl JsonSchema for QuantityText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "pattern": QUANTITY_PATTERN,
            "maxLength": QUANTITY_CHARS,
        })
    }
}

impl JsonSchema for Span {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": DURATION_PATTERN,
            "minLength": 1,
            "maxLength": DURATION_CHARS,
        })
    }
}

/// A port by number or by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum IntOrString {
    /// By number.
    Int(u16),
    /// By name, or a number as text.
    Text(String),
}

impl JsonSchema for IntOrString {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "IntOrString".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "minimum": 1,
            "maximum": u16::MAX,
            "minLength": 1,
            "maxLength": 63,
        })
    }
}

impl IntOrString {
    /// The number, also where it is written as text.
    #[must_use]
    pub fn number(&self) -> Option<u16> {
        match self {
            Self::Int(number) => Some(*number),
            Self::Text(text) => text.parse().ok(),
        }
    }

    /// The name, where it is not a number.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Text(text) if text.parse::<u16>().is_err() => Some(text),
            _ => None,
        }
    }
}
