//! `loadline bench`: load an OpenAI endpoint and report what its users see.

use anyhow::{Context as _, bail};
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use loadline_base::{format_duration, num, parse_duration};
use loadline_load::{
    DEFAULT_CONNECTIONS, Endpoint, Live, Load, Options, Plan, PromptForm, Quantiles, Report, Slo, Target,
    descriptor_budget, raise_descriptor_limit, read_trace,
};
use loadline_net::Clock;
use loadline_sim::trace::{Limits, Request};
use loadline_sim::workload::{Workload, fixed_lengths};
use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The environment variable that holds the key, as OpenAI's own clients name it.
const DEFAULT_KEY_VARIABLE: &str = "OPENAI_API_KEY";
/// The name of the workload that needs no file.
const BUILTIN: &str = "builtin";
/// How often the progress bar is drawn.
const PROGRESS_PERIOD: Duration = Duration::from_millis(200);
/// The client's own 99th percentile lateness, in seconds, from which the result is called doubtful.
const LATE_SECONDS: f64 = 0.1;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 every request was answered, 1 some were not, 2 the run could not start.")]
pub(crate) struct Args {
    /// Base URL of the endpoint, for example `http://127.0.0.1:8000` or `https://host/v1`.
    #[arg(long, value_name = "URL")]
    url: String,
    /// Model to ask for.
    #[arg(long, value_name = "NAME")]
    model: String,
    /// Requests to replay: a trace file (Azure, BurstGPT or our own CSV, Mooncake or Bailian JSONL, also gzip), or `builtin` for ten minutes
    /// with the figures of the Azure 2023 conversation trace.
    #[arg(long, value_name = "FILE|builtin", default_value = BUILTIN, conflicts_with = "input_len")]
    trace: String,
    /// Workload seconds per second on the clock; latencies are reported in workload time.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    speedup: f64,
    /// Send only what arrives in this time (the built-in workload repeats beyond ten minutes).
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Send at most so many requests.
    #[arg(long, value_name = "N")]
    max_requests: Option<usize>,
    /// Prompts of this length instead of a trace.
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    input_len: Option<u32>,
    /// Answers of this length.
    #[arg(long, value_name = "TOKENS", default_value_t = 128, requires = "input_len", value_parser = clap::value_parser!(u32).range(1..))]
    output_len: u32,
    /// How many requests of fixed length.
    #[arg(long, value_name = "N", default_value_t = 1000, requires = "input_len")]
    num_prompts: usize,
    /// Requests of fixed length per second, as a Poisson process; `inf` sends all at once.
    #[arg(long, value_name = "RATE", default_value_t = f64::INFINITY, requires = "input_len", conflicts_with = "concurrency")]
    request_rate: f64,
    /// Closed loop: keep so many requests in flight and pass over arrival times.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: Option<u32>,
    /// Which endpoint.
    #[arg(long, value_enum, default_value_t = EndpointName::Completions)]
    endpoint: EndpointName,
    /// Send prompts as token ids, exact with any tokenizer (`--endpoint completions` only).
    #[arg(long, conflicts_with = "tokens_per_word")]
    prompt_ids: bool,
    /// Tokens that the engine's tokenizer makes of one word.
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    tokens_per_word: f64,
    /// Do not ask for usage at the end of streams; each chunk with content then counts as one token.
    #[arg(long)]
    no_usage: bool,
    /// Objective: time to the first token.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "2s")]
    slo_ttft: Duration,
    /// Objective: time per further token.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "100ms")]
    slo_tpot: Duration,
    /// Name of the environment variable that holds the API key [default: OPENAI_API_KEY, if it is set].
    #[arg(long, value_name = "VARIABLE")]
    api_key: Option<String>,
    /// Further header, may be repeated.
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// Seed of lengths, arrivals and prompts.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// A request without a complete answer after this workload time has failed.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10m")]
    timeout: Duration,
    /// Send again after a refused connection, a 429 or a 503, so many times, waiting as `retry-after` says.
    #[arg(long, value_name = "N", default_value_t = 0)]
    retries: u32,
    /// Requests in flight at most; one that is due beyond them waits and counts as late.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CONNECTIONS)]
    max_connections: usize,
    /// Put so many single requests into the JSON.
    #[arg(long, value_name = "N", default_value_t = 0)]
    records: usize,
    /// What to print at the end.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum EndpointName {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    if !(args.speedup.is_finite() && args.speedup > 0.0) {
        bail!("`--speedup {}` must be a number above 0", args.speedup);
    }
    let target = target(&args)?;
    let (plan, workload) = plan(&args)?;
    if plan.requests.is_empty() {
        bail!(
            "no request is left to send: {workload} has none in the time asked for; raise `--duration` or `--max-requests`"
        );
    }
    raise_descriptor_limit();
    let options = Options {
        max_connections: args.max_connections.clamp(1, descriptor_budget()),
        request_timeout: args.timeout,
        retries: args.retries,
        max_records: args.records,
        slo: Slo { ttft: args.slo_ttft, tpot: args.slo_tpot },
        ..Options::default()
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let report = runtime.block_on(async {
        target
            .probe(options.connect_timeout)
            .await
            .map_err(|error| anyhow::anyhow!("{error}: start the server, or correct `--url`"))?;
        let load = Load::new(target.clone(), options, Clock::scaled(args.speedup));
        anyhow::Ok(watched(&load, plan).await)
    })?;
    match args.output {
        Output::Json => super::print(&format!("{}\n", json(&args, &workload, &target, &report)?))?,
        Output::Table => super::print(&table(&args, &workload, &target, &report))?,
    }
    Ok(ExitCode::from(u8::from(report.answered < report.sent)))
}

fn target(args: &Args) -> anyhow::Result<Target> {
    let endpoint = match args.endpoint {
        EndpointName::Chat => Endpoint::Chat,
        EndpointName::Completions => Endpoint::Completions,
    };
    let mut target = Target::new(&args.url, &args.model, endpoint).context("`--url`")?;
    if args.prompt_ids && endpoint == Endpoint::Chat {
        bail!("`--prompt-ids` needs `--endpoint completions`: the chat endpoint takes text only");
    }
    if !(args.tokens_per_word.is_finite() && args.tokens_per_word > 0.0) {
        bail!("`--tokens-per-word {}` must be a number above 0", args.tokens_per_word);
    }
    target.prompt = if args.prompt_ids {
        PromptForm::TokenIds
    } else {
        PromptForm::Words { tokens_per_word: args.tokens_per_word }
    };
    target.usage = !args.no_usage;
    for header in &args.header {
        let (name, value) =
            header.split_once(':').context("`--header` needs `name: value`, for example `--header 'x-tenant: a'`")?;
        target.header(name.trim(), value.trim()).context("`--header`")?;
    }
    let variable = args.api_key.as_deref().unwrap_or(DEFAULT_KEY_VARIABLE);
    if variable.is_empty() || !variable.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        bail!(
            "`--api-key` takes the name of an environment variable, not the key itself: keys on command lines are seen by others"
        );
    }
    match std::env::var(variable) {
        Ok(key) if !key.is_empty() => target.header("authorization", &format!("Bearer {}", key.trim()))?,
        _ if args.api_key.is_some() => bail!("the environment variable `{variable}` named by `--api-key` is not set"),
        _ => {}
    }
    Ok(target)
}

/// The requests, and the workload's name.
fn plan(args: &Args) -> anyhow::Result<(Plan, String)> {
    let (mut requests, block, name): (Vec<Request>, u32, String) = if let Some(input) = args.input_len {
        if args.request_rate.is_nan() || args.request_rate <= 0.0 {
            bail!("`--request-rate {}` must be above 0, or `inf`", args.request_rate);
        }
        let name = format!("{} requests of {input} and {} tokens", args.num_prompts, args.output_len);
        (fixed_lengths(args.num_prompts, input, args.output_len, args.request_rate, args.seed), 0, name)
    } else if args.trace == BUILTIN {
        let figures = Workload::builtin()?;
        let requests = figures.generate(args.duration.unwrap_or_else(|| figures.span()), args.seed);
        (
            requests,
            0,
            "the built-in workload (figures of the Azure 2023 conversation trace; Patel et al., ISCA 2024; CC-BY 4.0)"
                .to_owned(),
        )
    } else {
        let limits = Limits { until: args.duration.unwrap_or(Duration::MAX), ..Limits::default() };
        let trace = read_trace(Path::new(&args.trace), limits).context("`--trace`")?;
        let block = trace.format.prefix_block_tokens().unwrap_or(0);
        (trace.requests, block, format!("`{}` ({})", args.trace, trace.format.name()))
    };
    if let Some(duration) = args.duration {
        requests.retain(|request| request.arrival < duration);
    }
    requests.truncate(args.max_requests.unwrap_or(usize::MAX));
    let plan = match args.concurrency {
        Some(concurrency) => Plan::closed(requests, usize::try_from(concurrency).unwrap_or(usize::MAX)),
        None => Plan::open(requests),
    };
    Ok((plan.with_prefix_blocks(block).with_seed(args.seed), name))
}

/// Runs with a progress bar if someone watches; the first interrupt ends the run with a report of what was done.
async fn watched(load: &Load, plan: Plan) -> Report {
    let cancel = CancellationToken::new();
    let interrupted = cancel.clone();
    let interrupts = tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            interrupted.cancel();
        }
    });
    let bar = std::io::stderr().is_terminal().then(|| bar(plan.requests.len()));
    let live = load.live();
    let run = load.run(plan, cancel);
    tokio::pin!(run);
    let mut ticks = tokio::time::interval(PROGRESS_PERIOD);
    let report = loop {
        tokio::select! {
            report = &mut run => break report,
            _ = ticks.tick(), if bar.is_some() => draw(bar.as_ref(), &live),
        }
    };
    interrupts.abort();
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    report
}

fn bar(planned: usize) -> ProgressBar {
    let bar = ProgressBar::new(u64::try_from(planned).unwrap_or(u64::MAX));
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} sent  {msg}  {elapsed}") {
        bar.set_style(style);
    }
    bar
}

fn draw(bar: Option<&ProgressBar>, live: &Arc<Live>) {
    if let Some(bar) = bar {
        let counts = live.snapshot();
        bar.set_position(counts.sent);
        bar.set_message(format!(
            "{} answered, {} failed, {} in flight",
            counts.answered,
            counts.failed,
            counts.in_flight()
        ));
    }
}

fn json(args: &Args, workload: &str, target: &Target, report: &Report) -> anyhow::Result<serde_json::Value> {
    let mut object = serde_json::Map::new();
    object.insert("url".to_owned(), target.url().into());
    object.insert("model".to_owned(), args.model.clone().into());
    object.insert("workload".to_owned(), workload.into());
    if args.input_len.is_none() && args.trace == BUILTIN {
        object.insert("provenance".to_owned(), Workload::builtin()?.provenance.into());
    }
    object.insert("speedup".to_owned(), args.speedup.into());
    object.insert("seed".to_owned(), args.seed.into());
    if let serde_json::Value::Object(fields) =
        serde_json::to_value(report).context("cannot write the report as JSON")?
    {
        object.extend(fields);
    }
    Ok(object.into())
}

fn table(args: &Args, workload: &str, target: &Target, report: &Report) -> String {
    let mut text = format!("{workload}\nagainst `{}` at {}, speed-up {}\n\n", args.model, target.url(), args.speedup);
    let mut latencies = Table::new();
    latencies.load_style(presets::UTF8_FULL_CONDENSED).set_header(["seconds", "p50", "p95", "p99", "max", "mean"]);
    let seconds = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
    let mut row = |name: &str, q: Quantiles| {
        latencies.add_row([
            name.to_owned(),
            seconds(q.p50),
            seconds(q.p95),
            seconds(q.p99),
            seconds(q.max),
            seconds(q.mean),
        ]);
    };
    row("TTFT (first token)", report.ttft);
    row("TPOT (per further token)", report.tpot);
    row("E2E (last token)", report.e2e);
    if report.queued.max.is_some() {
        row("queued (where the answer says so)", report.queued);
    }
    for column in latencies.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    text.push_str(&format!("{latencies}\n\n"));
    text.push_str(&format!("sent {}, answered {}, failed {}", report.sent, report.answered, report.failed));
    for (count, what) in
        [(report.unfinished, "unfinished"), (report.short, "shorter than asked for"), (report.retries, "sent again")]
    {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    let percent = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), |share| format!("{:.2} %", share * 100.0));
    text.push_str(&format!(
        "\n{:.2} requests/s and {:.0} tokens/s answered over {}\nattainment {} (TTFT within {}: {}, TPOT within {}: {}), goodput {:.2} requests/s\n",
        report.requests_per_second(),
        report.tokens_per_second(),
        format_duration(num::duration_from_secs((report.duration * 10.0).round() / 10.0)),
        percent(report.attainment),
        format_duration(report.slo.ttft),
        percent(report.attainment_ttft),
        format_duration(report.slo.tpot),
        percent(report.attainment_tpot),
        report.goodput(),
    ));
    for (reason, failure) in &report.failures {
        text.push_str(&format!("failed with {reason}: {}, first: {}\n", failure.count, failure.example));
    }
    if let Some(late) = report.lateness.p99.filter(|late| *late >= LATE_SECONDS && args.concurrency.is_none()) {
        text.push_str(&format!(
            "this client was itself {late:.3} s late at p99 (counted in the latencies): it is short of processor time or of connections; \
             lower `--speedup` or raise `--max-connections`\n"
        ));
    }
    text
}
