//! One line to one row: columns by name, numbers with their rules.

use super::{Format, Request, TraceError};
use loadline_base::num;
use serde::Deserialize;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

/// The latest arrival that is taken, in seconds from the start: about 100 years, well inside 64-bit nanoseconds.
const MAX_ARRIVAL_S: f64 = 3.2e9;
/// Bytes of an offending value that a message repeats.
const SHOWN_BYTES: usize = 60;
const TOKENS: &str = "a whole number of tokens from 0 to 4294967295";
const SECONDS: &str = "a number of seconds, finite and not negative";
const MILLIS: &str = "a number of milliseconds, finite and not negative";
const WALL_TIME: &str = "a time such as `2023-11-16 18:15:46.6805900`";

/// A row before the origin of its times is known.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) nanos: i64,
    input_tokens: u32,
    output_tokens: u32,
    client: Option<Arc<str>>,
    prefix_hashes: Vec<u64>,
}

impl Row {
    pub(super) fn request(self, origin: i64) -> Request {
        Request {
            arrival: Duration::from_nanos(u64::try_from(self.nanos.saturating_sub(origin)).unwrap_or(0)),
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
            client: self.client,
            prefix_hashes: self.prefix_hashes,
        }
    }
}

/// A column of a CSV form: its place and its name.
#[derive(Debug, Clone)]
struct Column {
    index: usize,
    name: &'static str,
}

/// How rows are read: the form, and for CSV where its columns are.
#[derive(Debug)]
pub(super) struct Columns {
    format: Format,
    csv: Option<CsvColumns>,
    /// The previous row's client; tenants repeat, so most rows share its allocation.
    last_client: Option<Arc<str>>,
}

#[derive(Debug)]
struct CsvColumns {
    arrival: Column,
    input: Column,
    output: Column,
    client: Option<Column>,
}

/// The CSV forms: column names of arrival, input, output and client. Names are compared exactly: `TIMESTAMP` is Azure's, `Timestamp` BurstGPT's.
const CSV_FORMS: [(Format, [&str; 3], Option<&str>); 3] = [
    (Format::Own, ["arrival_s", "input_tokens", "output_tokens"], Some("client")),
    (Format::Azure, ["TIMESTAMP", "ContextTokens", "GeneratedTokens"], None),
    (Format::BurstGpt, ["Timestamp", "Request tokens", "Response tokens"], None),
];

#[derive(Deserialize)]
struct JsonRow<'a> {
    #[serde(borrow)]
    timestamp: &'a serde_json::value::RawValue,
    #[serde(borrow)]
    input_length: &'a serde_json::value::RawValue,
    #[serde(borrow)]
    output_length: &'a serde_json::value::RawValue,
    #[serde(default)]
    hash_ids: Vec<u64>,
}

#[derive(Deserialize)]
struct JsonKind {
    chat_id: Option<serde::de::IgnoredAny>,
}

impl Columns {
    /// Finds the form from the first line.
    pub(super) fn detect(line: &[u8]) -> Option<Self> {
        if line.first() == Some(&b'{') {
            let kind: JsonKind = serde_json::from_slice(line).ok()?;
            let format = if kind.chat_id.is_some() { Format::Bailian } else { Format::Mooncake };
            return Some(Self { format, csv: None, last_client: None });
        }
        let names: Vec<Cow<'_, [u8]>> = split(line).collect();
        let place = |name: &'static str| {
            names.iter().position(|field| field.as_ref() == name.as_bytes()).map(|index| Column { index, name })
        };
        CSV_FORMS.into_iter().find_map(|(format, [arrival, input, output], client)| {
            let csv = CsvColumns {
                arrival: place(arrival)?,
                input: place(input)?,
                output: place(output)?,
                client: client.and_then(place),
            };
            Some(Self { format, csv: Some(csv), last_client: None })
        })
    }

    pub(super) const fn format(&self) -> Format {
        self.format
    }

    pub(super) const fn first_line_is_a_row(&self) -> bool {
        self.csv.is_none()
    }

    /// Reads one line.
    pub(super) fn row(&mut self, line: &[u8], number: u64) -> Result<Row, TraceError> {
        match &self.csv {
            None => self.json_row(line, number),
            Some(columns) => {
                let fields = Fields::find(line, columns, number)?;
                let [arrival, input, output] = fields.required;
                let nanos = match self.format {
                    Format::Azure => {
                        wall_nanos(&arrival).ok_or_else(|| bad(number, columns.arrival.name, &arrival, WALL_TIME))?
                    }
                    _ => scaled_nanos(&arrival, 1e9)
                        .ok_or_else(|| bad(number, columns.arrival.name, &arrival, SECONDS))?,
                };
                let input_tokens = tokens(&input).ok_or_else(|| bad(number, columns.input.name, &input, TOKENS))?;
                let output_tokens = tokens(&output).ok_or_else(|| bad(number, columns.output.name, &output, TOKENS))?;
                let client = fields.client.filter(|name| !name.is_empty()).map(|name| {
                    let name = String::from_utf8_lossy(&name);
                    let known = self.last_client.as_ref().filter(|last| ***last == *name).cloned();
                    known.unwrap_or_else(|| Arc::from(name.as_ref()))
                });
                self.last_client.clone_from(&client);
                Ok(Row { nanos, input_tokens, output_tokens, client, prefix_hashes: Vec::new() })
            }
        }
    }

    fn json_row(&self, line: &[u8], number: u64) -> Result<Row, TraceError> {
        let row: JsonRow<'_> = serde_json::from_slice(line)
            .map_err(|error| TraceError::BadJson { line: number, reason: error.to_string() })?;
        let (scale, expected) = if self.format == Format::Mooncake { (1e6, MILLIS) } else { (1e9, SECONDS) };
        let time = row.timestamp.get().as_bytes();
        let input = row.input_length.get().as_bytes();
        let output = row.output_length.get().as_bytes();
        Ok(Row {
            nanos: scaled_nanos(time, scale).ok_or_else(|| bad(number, "timestamp", time, expected))?,
            input_tokens: tokens(input).ok_or_else(|| bad(number, "input_length", input, TOKENS))?,
            output_tokens: tokens(output).ok_or_else(|| bad(number, "output_length", output, TOKENS))?,
            client: None,
            prefix_hashes: row.hash_ids,
        })
    }
}

/// The wanted fields of one CSV line.
struct Fields<'a> {
    required: [Cow<'a, [u8]>; 3],
    client: Option<Cow<'a, [u8]>>,
}

impl<'a> Fields<'a> {
    fn find(line: &'a [u8], columns: &CsvColumns, number: u64) -> Result<Self, TraceError> {
        let (mut arrival, mut input, mut output, mut client) = (None, None, None, None);
        let mut found = 0;
        for (index, field) in split(line).enumerate() {
            found = index + 1;
            if index == columns.arrival.index {
                arrival = Some(field);
            } else if index == columns.input.index {
                input = Some(field);
            } else if index == columns.output.index {
                output = Some(field);
            } else if columns.client.as_ref().is_some_and(|column| column.index == index) {
                client = Some(field);
            }
        }
        let need = |field: Option<Cow<'a, [u8]>>, column: &Column| {
            field.ok_or_else(|| TraceError::MissingField { line: number, column: column.name.to_owned(), found })
        };
        let required = [need(arrival, &columns.arrival)?, need(input, &columns.input)?, need(output, &columns.output)?];
        Ok(Self { required, client })
    }
}

/// Splits a CSV line (RFC 4180 quotes; no line breaks inside fields) and trims blanks around fields.
fn split(line: &[u8]) -> impl Iterator<Item = Cow<'_, [u8]>> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let current = rest?;
        if let Some(quoted) = current.trim_ascii_start().strip_prefix(b"\"") {
            let mut value = Vec::new();
            let mut tail = quoted;
            loop {
                let end = memchr::memchr(b'"', tail).unwrap_or(tail.len());
                let (part, after) = tail.split_at(end);
                value.extend_from_slice(part);
                match after.strip_prefix(b"\"\"") {
                    Some(next) => {
                        value.push(b'"');
                        tail = next;
                    }
                    None => {
                        tail = after.strip_prefix(b"\"").unwrap_or(after);
                        break;
                    }
                }
            }
            rest = memchr::memchr(b',', tail).and_then(|comma| tail.get(comma + 1..));
            return Some(Cow::Owned(value));
        }
        let (field, after) = match memchr::memchr(b',', current) {
            Some(comma) => (current.get(..comma).unwrap_or_default(), current.get(comma + 1..)),
            None => (current, None),
        };
        rest = after;
        Some(Cow::Borrowed(field.trim_ascii()))
    })
}

fn bad(line: u64, column: &str, value: &[u8], expected: &'static str) -> TraceError {
    TraceError::BadValue { line, column: column.to_owned(), value: shorten(value), expected }
}

/// The start of a value, as text for a message.
pub(super) fn shorten(value: &[u8]) -> String {
    match value.get(..SHOWN_BYTES) {
        Some(start) if value.len() > SHOWN_BYTES => format!("{}..", String::from_utf8_lossy(start)),
        _ => String::from_utf8_lossy(value).into_owned(),
    }
}

fn number(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A count; `374.0`, as spreadsheet exports write it, is one too.
fn tokens(text: &[u8]) -> Option<u32> {
    if let Some(count) = std::str::from_utf8(text).ok()?.parse::<u32>().ok().filter(|_| text.first() != Some(&b'+')) {
        return Some(count);
    }
    let value = number(text)?;
    let fits = (0.0..=f64::from(u32::MAX)).contains(&value) && libm::floor(value) == value && !value.is_sign_negative();
    fits.then(|| num::f64_to_u32_trunc(value))
}

fn scaled_nanos(text: &[u8], nanos_per_unit: f64) -> Option<i64> {
    let value = number(text)?;
    let nanos = value * nanos_per_unit;
    // `contains` is false for NaN; a minus zero is a plain zero
    (0.0..=MAX_ARRIVAL_S * 1e9).contains(&nanos).then(|| num::f64_to_i64_trunc(libm::round(nanos)))
}

/// `YYYY-MM-DD[ T]HH:MM:SS[.fraction][Z|+HH:MM|-HH:MM]` to nanoseconds since the Unix epoch; without an offset it is UTC.
fn wall_nanos(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let (date, time) = text.split_once([' ', 'T'])?;
    let mut parts = date.splitn(3, '-');
    let (year, month, day) = (digits(parts.next()?, 4)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let (clock, offset_minutes) = split_offset(time.trim())?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut parts = clock.splitn(3, ':');
    let (hour, minute, second) = (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let valid = (1970..=2200).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 61;
    if !valid || fraction.is_empty() || fraction.len() > 18 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: i64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    let seconds = days_since_epoch(year, month, day) * 86_400 + hour * 3_600 + (minute - offset_minutes) * 60 + second;
    Some(seconds * 1_000_000_000 + nanos)
}

fn digits(text: &str, width: usize) -> Option<i64> {
    (text.len() == width && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// The clock part and the offset from UTC in minutes.
fn split_offset(time: &str) -> Option<(&str, i64)> {
    if let Some(clock) = time.strip_suffix('Z') {
        return Some((clock, 0));
    }
    let Some((clock, offset)) = time.split_once(['+', '-']) else { return Some((time, 0)) };
    let (hours, minutes) = offset.split_once(':')?;
    let (hours, minutes) = (digits(hours, 2)?, digits(minutes, 2)?);
    let sign = if time.contains('-') { -1 } else { 1 };
    (hours < 24 && minutes < 60).then_some((clock, sign * (hours * 60 + minutes)))
}

const fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

const fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + is_leap(year) as i64,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the Gregorian calendar.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let before = year - 1;
    let leap_days = before / 4 - before / 100 + before / 400 - (1969 / 4 - 1969 / 100 + 1969 / 400);
    let months: i64 = (1..month).map(|earlier| days_in_month(year, earlier)).sum();
    (year - 1970) * 365 + leap_days + months + day - 1
}
