//! `loadline signals`: what is read from a metrics page.

use anyhow::Context;
use loadline_scrape::{ScrapeSettings, fetch_page};
use loadline_signals::dialect::{EngineKind, Reading, SignalReading, read};
use loadline_signals::exposition::Limits;
use serde_json::{Map, Number, Value, json};
use std::fmt::Write as _;
use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

/// How long a URL may take: longer than a scrape, since somebody waits for this one answer.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Exit code for a page on which no known engine was found.
const NOTHING_FOUND: u8 = 1;
/// Integers up to here are exact in a double and printed without a fraction.
const EXACT_INTEGERS: f64 = 9_007_199_254_740_992.0;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 an engine was found, 1 the page is readable and no known engine's, 2 it cannot be read."
)]
pub(crate) struct Args {
    /// A file, an http:// or https:// URL, or `-` for standard input.
    #[arg(value_name = "FILE|URL")]
    source: String,
    /// Read the page as this engine's instead of finding out.
    #[arg(long, value_name = "KIND", value_parser = str::parse::<EngineKind>)]
    engine: Option<EngineKind>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// One object: `engine`, and per signal `value` and `series`.
    Json,
    /// One line per series.
    Table,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let limits = Limits::default();
    let name = if args.source == "-" { "standard input" } else { args.source.as_str() };
    let page = load(&args.source, &limits)?;
    let reading = read(&page, args.engine, &limits).map_err(|error| anyhow::anyhow!("`{name}`: {error}"))?;
    match args.output {
        Output::Json => super::print(&format!("{:#}\n", as_json(&reading)))?,
        Output::Table => super::print(&as_table(&reading))?,
    }
    if let Some(first) = reading.errors.first() {
        eprintln!(
            "warning: `{name}`: {} lines could not be read and were left out; the first: {first}",
            reading.rejected_lines
        );
    }
    let declared_in_vain = args.engine.is_some() && reading.signals.is_empty();
    if reading.engine.is_none() || declared_in_vain {
        let what = args.engine.map_or_else(|| "a known engine".to_owned(), |engine| format!("`{engine}`"));
        eprintln!(
            "`{name}` is a metrics page, but it has none of the names of {what}; try another port or path, or `--engine`"
        );
        return Ok(ExitCode::from(NOTHING_FOUND));
    }
    Ok(ExitCode::SUCCESS)
}

/// The page's bytes, at most one more than the limit allows: reading it then says what is wrong.
fn load(source: &str, limits: &Limits) -> anyhow::Result<Vec<u8>> {
    let scheme = source.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    if let Some("http" | "https") = scheme.as_deref() {
        let settings = ScrapeSettings {
            timeout: FETCH_TIMEOUT,
            max_body_bytes: limits.max_page_bytes,
            ..ScrapeSettings::default()
        };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
        return Ok(runtime.block_on(fetch_page(source, &settings))?.into());
    }
    let most = u64::try_from(limits.max_page_bytes).unwrap_or(u64::MAX).saturating_add(1);
    let mut page = Vec::new();
    if source == "-" {
        std::io::stdin().lock().take(most).read_to_end(&mut page).context("cannot read standard input")?;
    } else {
        let opened = std::fs::File::open(source).and_then(|file| file.take(most).read_to_end(&mut page));
        opened.with_context(|| format!("cannot read `{source}`; give a file, an http:// or https:// URL, or `-`"))?;
    }
    Ok(page)
}

fn as_json(reading: &Reading) -> Value {
    let signals: Map<String, Value> = reading
        .signals
        .iter()
        .map(|(name, signal)| {
            (name.as_str().to_owned(), json!({"value": number(signal.value), "series": signal.series}))
        })
        .collect();
    json!({"engine": reading.engine.map(EngineKind::as_str), "signals": signals})
}

/// Whole numbers without a fraction.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() <= EXACT_INTEGERS {
        format!("{value:.0}").parse::<i64>().map_or(Value::Null, Value::from)
    } else {
        Number::from_f64(value).map_or(Value::Null, Value::Number)
    }
}

fn as_table(reading: &Reading) -> String {
    let mut table = String::new();
    let engine = reading.engine.map_or("unknown", EngineKind::as_str);
    let _ = writeln!(table, "engine: {engine}");
    if reading.signals.is_empty() {
        table.push_str("no signals\n");
        return table;
    }
    let rows: Vec<(&str, String, &SignalReading)> =
        reading.signals.iter().map(|(name, signal)| (name.as_str(), shown(signal), signal)).collect();
    let names = rows.iter().map(|(name, ..)| name.len()).chain(["signal".len()]).max().unwrap_or_default();
    let values = rows.iter().map(|(_, value, _)| value.len()).chain(["value".len()]).max().unwrap_or_default();
    let _ = writeln!(table, "{:names$}  {:>values$}  from", "signal", "value");
    for (name, value, signal) in &rows {
        for (at, series) in signal.series.iter().enumerate() {
            let (name, value) = if at == 0 { (*name, value.as_str()) } else { ("", "") };
            let _ = writeln!(table, "{name:names$}  {value:>values$}  {series}");
        }
    }
    table
}

/// A value for people: of a histogram the number of observations and their mean.
fn shown(signal: &SignalReading) -> String {
    match &signal.histogram {
        Some(histogram) if histogram.count > 0.0 => {
            format!("{} (mean {:.4})", number(histogram.count), histogram.sum / histogram.count)
        }
        _ => number(signal.value).to_string(),
    }
}
