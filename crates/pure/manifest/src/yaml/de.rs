//! From the tree into types, keeping the path of what does not fit.

use super::{Fault, Key, Node, Position, Value, did_you_mean};
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use std::fmt;

/// What does not fit, with the path from the root growing as the error travels up.
#[derive(Debug)]
pub(super) struct DeError {
    at: Option<Position>,
    /// Innermost part first.
    path: Vec<String>,
    message: String,
}

impl DeError {
    fn within(mut self, at: Position, part: String) -> Self {
        self.at.get_or_insert(at);
        self.path.push(part);
        self
    }

    fn at(mut self, at: Position) -> Self {
        self.at.get_or_insert(at);
        self
    }

    pub(super) fn into_fault(self, file: &str) -> Fault {
        let mut path = String::new();
        for part in self.path.iter().rev() {
            if !path.is_empty() && !part.starts_with('[') {
                path.push('.');
            }
            path.push_str(part);
        }
        Fault::new(file, self.at.unwrap_or(Position::START), path, self.message)
    }
}

impl fmt::Display for DeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DeError {}

fn listed(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

/// The sentence for a name that is not among `known`.
fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    let known_text =
        if known.is_empty() { "none is allowed here".to_owned() } else { format!("known are {}", listed(known)) };
    match did_you_mean(name, known) {
        Some(near) => format!("unknown {what} `{name}`; did you mean `{near}`? ({known_text})"),
        None => format!("unknown {what} `{name}`; {known_text}"),
    }
}

impl de::Error for DeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { at: None, path: Vec::new(), message: message.to_string() }
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format!("expected {expected}, found {unexpected}"))
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format!("expected {expected}, found {unexpected}"))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(unknown("value", variant, expected))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(unknown("field", field, expected))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::custom(format!("the field `{field}` is missing; add it"))
    }
}

/// Reads a type from a node.
#[derive(Debug, Clone, Copy)]
pub(super) struct NodeDeserializer<'a> {
    node: &'a Node,
}

impl<'a> NodeDeserializer<'a> {
    pub(super) const fn new(node: &'a Node) -> Self {
        Self { node }
    }

    fn unexpected(&self) -> Unexpected<'a> {
        match &self.node.value {
            Value::Null => Unexpected::Unit,
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Int(value) => Unexpected::Signed(*value),
            Value::Uint(value) => Unexpected::Unsigned(*value),
            Value::Float(value) => Unexpected::Float(*value),
            Value::Text(text) => Unexpected::Str(text),
            Value::List(_) => Unexpected::Seq,
            Value::Map(_) => Unexpected::Map,
        }
    }
}

impl<'de> Deserializer<'de> for NodeDeserializer<'_> {
    type Error = DeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        let at = self.node.at;
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => visitor.visit_i64(*value),
            Value::Uint(value) => visitor.visit_u64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_str(text),
            Value::List(items) => visitor.visit_seq(Items { items: items.iter().enumerate() }),
            Value::Map(pairs) => visitor.visit_map(Fields { pairs: pairs.iter(), value: None }),
        }
        .map_err(|error| error.at(at))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, DeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeError> {
        let at = self.node.at;
        match &self.node.value {
            Value::Text(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            Value::Map(pairs) => match pairs.as_slice() {
                [(key, node)] => visitor.visit_enum(Variant { key, node }),
                _ => Err(DeError::custom("expected a mapping with exactly one field, the name of the variant")),
            },
            _ => Err(DeError::invalid_type(self.unexpected(), &"text")),
        }
        .map_err(|error: DeError| error.at(at))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match &self.node.value {
            Value::Text(text) => visitor.visit_str(text).map_err(|error: DeError| error.at(self.node.at)),
            Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Float(_) => {
                let message = format!("expected text, found {}; put it in quotes", self.unexpected());
                Err(DeError::custom(message).at(self.node.at))
            }
            _ => Err(DeError::invalid_type(self.unexpected(), &"text").at(self.node.at)),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.deserialize_str(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

struct Items<'a> {
    items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = DeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DeError> {
        let Some((index, node)) = self.items.next() else { return Ok(None) };
        seed.deserialize(NodeDeserializer::new(node))
            .map(Some)
            .map_err(|error| error.within(node.at, format!("[{index}]")))
    }
}

struct Fields<'a> {
    pairs: std::slice::Iter<'a, (Key, Node)>,
    value: Option<(&'a Key, &'a Node)>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = DeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DeError> {
        // a null is a field left out
        for (key, node) in self.pairs.by_ref() {
            if node.value == Value::Null {
                continue;
            }
            self.value = Some((key, node));
            return seed
                .deserialize(key.name.as_str().into_deserializer())
                .map(Some)
                .map_err(|error: DeError| error.within(key.at, key.name.clone()));
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DeError> {
        let Some((key, node)) = self.value.take() else {
            return Err(DeError::custom("a value was asked for before its field"));
        };
        seed.deserialize(NodeDeserializer::new(node)).map_err(|error| error.within(node.at, key.name.clone()))
    }
}

struct Variant<'a> {
    key: &'a Key,
    node: &'a Node,
}

impl<'a, 'de> EnumAccess<'de> for Variant<'a> {
    type Error = DeError;
    type Variant = NodeDeserializer<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, NodeDeserializer<'a>), DeError> {
        let variant = seed
            .deserialize(self.key.name.as_str().into_deserializer())
            .map_err(|error: DeError| error.within(self.key.at, self.key.name.clone()))?;
        Ok((variant, NodeDeserializer::new(self.node)))
    }
}

impl<'de> VariantAccess<'de> for NodeDeserializer<'_> {
    type Error = DeError;

    fn unit_variant(self) -> Result<(), DeError> {
        Err(DeError::custom("expected only the name, without fields").at(self.node.at))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, DeError> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DeError> {
        self.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, DeError> {
        self.deserialize_any(visitor)
    }
}
