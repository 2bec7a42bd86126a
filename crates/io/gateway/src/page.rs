//! The metrics page, text format 0.0.4.
//!
//! Every configured model has every series of its own, also at zero, so that an absent series never means zero.

use crate::epp_names::{FAMILIES, Family, LabelSet, Meaning};
use crate::metrics::{Histogram, ModelMetrics, QueueOutcome};
use crate::model::{Model, ReplicaRow};
use crate::shared::{PERMIT_BYTES, Shared};
use loadline_base::num::{u64_to_f64, usize_to_f64};
use loadline_hold::{Counts, Reason, ReplicaPhase};
use std::fmt::Write;
use std::sync::Arc;

/// One model as the page shows it.
struct Row {
    model: Arc<Model>,
    /// On the endpoint picker's metrics.
    pool: String,
    counts: Counts,
    arrivals: u64,
    replicas: Vec<ReplicaRow>,
    oldest_age: f64,
    peak: u64,
}

/// Renders the page.
pub(crate) fn render(shared: &Shared) -> String {
    let now = shared.clock.now();
    let rows: Vec<Row> = shared
        .models()
        .values()
        .map(|model| {
            let (counts, arrivals, replicas) = model.snapshot();
            let oldest_age = counts.oldest.map_or(0.0, |oldest| now.since(oldest).as_secs_f64());
            let peak = model.metrics.peak.take().max(u64::from(counts.held) + u64::from(counts.in_flight));
            let pool = model.inference_pool().unwrap_or_else(|| shared.settings.inference_pool.clone());
            Row { model: Arc::clone(model), pool, counts, arrivals, replicas, oldest_age, peak }
        })
        .collect();
    let mut page = Page::default();
    gauges(&mut page, &rows);
    counters(&mut page, &rows);
    histograms(&mut page, &rows);
    first_byte(&mut page, &rows);
    laws(&mut page, &rows);
    process(&mut page, shared);
    for family in FAMILIES.iter().filter(|family| shared.settings.legacy_epp_names || !family.legacy) {
        epp(&mut page, shared, family, &rows);
    }
    page.text
}

/// A page being written.
#[derive(Default)]
struct Page {
    text: String,
}

/// Name, help text, and where a family reads its value.
type Reading<T> = (&'static str, &'static str, fn(&ModelMetrics) -> T);

/// Where a family reads its histogram.
type HistogramOf = for<'a> fn(&'a ModelMetrics) -> &'a Histogram;

type Label<'a> = (&'a str, &'a str);

/// The two kinds of answers and their label.
const STREAMED: [(bool, &str); 2] = [(false, "false"), (true, "true")];

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[Label<'_>], value: f64) {
        self.text.push_str(name);
        let mut open = '{';
        for (label, value) in labels.iter().filter(|(_, value)| !value.is_empty()) {
            self.text.push(open);
            open = ',';
            let _ = write!(self.text, "{label}=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    c => self.text.push(c),
                }
            }
            self.text.push('"');
        }
        if open == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    fn histogram(&mut self, name: &str, labels: &[Label<'_>], histogram: &Histogram) {
        let (buckets, count, sum) = histogram.read();
        let bucket = format!("{name}_bucket");
        let ends = buckets.iter().map(|(end, total)| (end.to_string(), *total));
        for (end, total) in ends.chain([("+Inf".to_owned(), count)]) {
            let with: Vec<Label<'_>> = labels.iter().copied().chain([("le", end.as_str())]).collect();
            self.sample(&bucket, &with, u64_to_f64(total));
        }
        self.sample(&format!("{name}_sum"), labels, sum);
        self.sample(&format!("{name}_count"), labels, u64_to_f64(count));
    }

    /// A family with one sample per model.
    fn per_model(&mut self, (name, kind, help): (&str, &str, &str), rows: &[Row], value: impl Fn(&Row) -> f64) {
        self.family(name, kind, help);
        for row in rows {
            self.sample(name, &[("model", row.model.id.as_str())], value(row));
        }
    }
}

fn gauges(page: &mut Page, rows: &[Row]) {
    let name = "loadline_gateway_queue_depth";
    page.family(name, "gauge", "Requests held, by what they wait for.");
    for row in rows {
        let model = row.model.id.as_str();
        let held = f64::from(row.counts.held);
        let (cold, saturated) = if row.counts.cold { (held, 0.0) } else { (0.0, held) };
        page.sample(name, &[("model", model), ("reason", "cold")], cold);
        page.sample(name, &[("model", model), ("reason", "saturated")], saturated);
    }
    let oldest = ("loadline_gateway_queue_oldest_age_seconds", "gauge", "Age of the oldest held request.");
    page.per_model(oldest, rows, |row| row.oldest_age);
    let held = ("loadline_gateway_queue_bytes", "gauge", "Bytes of held requests.");
    page.per_model(held, rows, |row| u64_to_f64(row.counts.held_bytes));
    let peak = ("loadline_gateway_demand_peak", "gauge", "Largest sum of held and in flight since the last scrape.");
    page.per_model(peak, rows, |row| u64_to_f64(row.peak));
    let ready = ("loadline_gateway_replicas", "gauge", "Replicas that take requests.");
    page.per_model(ready, rows, |row| f64::from(row.counts.serving));
    let flying = ("loadline_gateway_in_flight", "gauge", "Requests in flight over all replicas.");
    page.per_model(flying, rows, |row| f64::from(row.counts.in_flight));
    let name = "loadline_gateway_replica_in_flight";
    page.family(name, "gauge", "Requests in flight by replica.");
    for (row, replica) in rows.iter().flat_map(|row| row.replicas.iter().map(move |replica| (row, replica))) {
        let labels = [("model", row.model.id.as_str()), ("replica", replica.id.as_str())];
        page.sample(name, &labels, f64::from(replica.in_flight));
    }
    let name = "loadline_gateway_slots";
    page.family(name, "gauge", "Slots by replica and state.");
    for (row, replica) in rows.iter().flat_map(|row| row.replicas.iter().map(move |replica| (row, replica))) {
        let free = replica.slots.saturating_sub(replica.in_flight);
        let serving = replica.phase == ReplicaPhase::Serving;
        for (state, slots) in [
            ("free", if serving { free } else { 0 }),
            ("leased", replica.in_flight),
            ("draining", if serving { 0 } else { free }),
        ] {
            let labels = [("model", row.model.id.as_str()), ("replica", replica.id.as_str()), ("state", state)];
            page.sample(name, &labels, f64::from(slots));
        }
    }
}

fn counters(page: &mut Page, rows: &[Row]) {
    let arrivals = ("loadline_gateway_requests_total", "counter", "Requests read.");
    page.per_model(arrivals, rows, |row| u64_to_f64(row.arrivals));
    let families: [Reading<u64>; 5] = [
        ("loadline_gateway_wakes_total", "Calls for a first replica, repeats until one was heard included.", |m| {
            m.wakes.get()
        }),
        ("loadline_gateway_keepalives_total", "Comments due on held streams.", |m| m.keepalives.get()),
        ("loadline_gateway_cancelled_total", "Requests whose client went away.", |m| m.cancelled.get()),
        ("loadline_gateway_broken_streams_total", "Answers that broke off after their first byte.", |m| m.broken.get()),
        ("loadline_gateway_upstream_timeouts_total", "Requests a replica took and left unanswered.", |m| {
            m.timeouts.get()
        }),
    ];
    for (name, help, read) in families {
        page.per_model((name, "counter", help), rows, |row| u64_to_f64(read(&row.model.metrics)));
    }
    let name = "loadline_gateway_dropped_total";
    page.family(name, "counter", "Requests refused, by reason and status.");
    for row in rows {
        for (reason, counter) in Reason::ALL.iter().zip(&row.model.metrics.drops) {
            let code = reason.status().to_string();
            let labels = [("model", row.model.id.as_str()), ("reason", reason.code()), ("code", code.as_str())];
            page.sample(name, &labels, u64_to_f64(counter.get()));
        }
    }
    let name = "loadline_gateway_retries_total";
    page.family(name, "counter", "Requests held again after a failed attempt.");
    for row in rows {
        let metrics = &row.model.metrics;
        for (reason, counter) in [
            ("refused", &metrics.retries_refused),
            ("reset", &metrics.retries_reset),
            ("unavailable", &metrics.retries_unavailable),
        ] {
            page.sample(name, &[("model", row.model.id.as_str()), ("reason", reason)], u64_to_f64(counter.get()));
        }
    }
}

fn histograms(page: &mut Page, rows: &[Row]) {
    let families: [(&str, &str, HistogramOf); 4] = [
        (
            "loadline_gateway_overhead_seconds",
            "Own time from a request read to its first attempt, held time apart.",
            |m| &m.overhead_seconds,
        ),
        ("loadline_gateway_queue_seconds", "Time held of requests that got a slot.", |m| {
            m.queue(QueueOutcome::Dispatched)
        }),
        ("loadline_gateway_cold_start_seconds", "Time held of requests that met no replica.", |m| {
            &m.cold_start_seconds
        }),
        ("loadline_gateway_request_seconds", "Time from a request to the end of its answer.", |m| &m.request_seconds),
    ];
    for (name, help, read) in families {
        page.family(name, "histogram", help);
        for row in rows {
            page.histogram(name, &[("model", row.model.id.as_str())], read(&row.model.metrics));
        }
    }
}

fn first_byte(page: &mut Page, rows: &[Row]) {
    let name = "loadline_gateway_first_byte_seconds";
    page.family(name, "histogram", "Time from a request to the head of its answer.");
    for row in rows {
        for (streamed, word) in STREAMED {
            let labels = [("model", row.model.id.as_str()), ("streamed", word)];
            page.histogram(name, &labels, row.model.metrics.first_byte(streamed));
        }
    }
}

fn laws(page: &mut Page, rows: &[Row]) {
    let name = "loadline_gateway_law_violations_total";
    page.family(name, "counter", "Broken laws: L5 no request is lost, L6 slots are never exceeded, L7 bounds hold.");
    for row in rows {
        let counts = &row.counts;
        for (law, count) in
            [("L5", counts.exit_violations()), ("L6", counts.slot_violations), ("L7", counts.bound_violations)]
        {
            page.sample(name, &[("model", row.model.id.as_str()), ("law", law)], u64_to_f64(count));
        }
    }
}

fn process(page: &mut Page, shared: &Shared) {
    let free = u64::try_from(shared.room.available_permits()).unwrap_or(u64::MAX);
    let held = u64::from(shared.room_total).saturating_sub(free).saturating_mul(PERMIT_BYTES);
    let (client, server) = shared.metrics.errors();
    let metrics = &shared.metrics;
    let open = metrics.connections.get().saturating_sub(metrics.connections_closed.get());
    for (name, kind, help, value) in [
        ("loadline_gateway_held_bytes", "gauge", "Bytes reserved for request bodies.", held),
        ("loadline_gateway_connections", "gauge", "Client connections open.", open),
        ("loadline_gateway_connections_total", "counter", "Client connections taken.", metrics.connections.get()),
        (
            "loadline_gateway_connections_refused_total",
            "counter",
            "Client connections beyond the limit.",
            metrics.connections_refused.get(),
        ),
        ("loadline_gateway_client_errors_total", "counter", "Error answers of the gateway below 500.", client),
        ("loadline_gateway_server_errors_total", "counter", "Error answers of the gateway from 500 up.", server),
    ] {
        page.family(name, kind, help);
        page.sample(name, &[], u64_to_f64(value));
    }
}

/// One family of the endpoint picker's page.
fn epp(page: &mut Page, shared: &Shared, family: &Family, rows: &[Row]) {
    page.family(family.name, family.kind, family.help);
    let controller = ("top_level_controller_name", shared.settings.top_level_controller_name.as_str());
    if matches!(family.labels, LabelSet::Pool | LabelSet::Name) {
        let mut pools: Vec<&str> = rows.iter().map(|row| row.pool.as_str()).collect();
        pools.sort_unstable();
        pools.dedup();
        if pools.is_empty() {
            pools.push(&shared.settings.inference_pool);
        }
        for pool in pools {
            epp_pool(page, family, pool, controller, &rows.iter().filter(|row| row.pool == pool).collect::<Vec<_>>());
        }
        return;
    }
    for row in rows {
        let model = row.model.id.as_str();
        let labels = labels_of(family.labels, &row.pool, model, controller);
        let metrics = &row.model.metrics;
        let value = match family.meaning {
            Meaning::QueueSeconds => {
                for outcome in QueueOutcome::ALL {
                    let histogram = metrics.queue(outcome);
                    // The others come with their first request, as the endpoint picker's do.
                    if outcome == QueueOutcome::Dispatched || histogram.count() > 0 {
                        page.histogram(family.name, &with(&labels, ("outcome", outcome.word())), histogram);
                    }
                }
                None
            }
            Meaning::RequestSeconds => {
                page.histogram(family.name, &labels, &metrics.request_seconds);
                None
            }
            Meaning::FirstByteSeconds => {
                for (streamed, word) in STREAMED {
                    page.histogram(family.name, &with(&labels, ("streaming", word)), metrics.first_byte(streamed));
                }
                None
            }
            Meaning::EndpointInFlight => {
                for replica in &row.replicas {
                    let labels = with(&labels, ("endpoint_name", replica.id.as_str()));
                    page.sample(family.name, &labels, f64::from(replica.in_flight));
                }
                None
            }
            Meaning::Outcomes => {
                for outcome in QueueOutcome::ALL {
                    let labels = with(&with(&labels, ("model_name", model)), ("outcome", outcome.word()));
                    page.sample(family.name, &labels, u64_to_f64(metrics.queue(outcome).count()));
                }
                None
            }
            Meaning::QueueSize => Some(f64::from(row.counts.held)),
            Meaning::QueueBytes => Some(u64_to_f64(row.counts.held_bytes)),
            Meaning::Requests => Some(u64_to_f64(row.arrivals)),
            Meaning::Errors => {
                for (code, count) in metrics.errors() {
                    page.sample(family.name, &with(&labels, ("error_code", code)), u64_to_f64(count));
                }
                None
            }
            _ => Some(f64::from(row.counts.in_flight)),
        };
        if let Some(value) = value {
            page.sample(family.name, &labels, value);
        }
    }
}

/// One pool's sample of a family of pools.
fn epp_pool(page: &mut Page, family: &Family, pool: &str, controller: Label<'_>, rows: &[&Row]) {
    let sum = |value: fn(&Counts) -> u32| rows.iter().map(|row| f64::from(value(&row.counts))).sum::<f64>();
    let ready = sum(|counts| counts.serving);
    let value = match family.meaning {
        Meaning::ReadyEndpoints => ready,
        Meaning::MeanQueue => sum(|counts| counts.held) / ready.max(1.0),
        Meaning::MeanRunning => sum(|counts| counts.in_flight) / ready.max(1.0),
        _ => saturation(rows),
    };
    let label = if family.labels == LabelSet::Pool { "inference_pool" } else { "name" };
    page.sample(family.name, &[(label, pool), controller], value);
}

fn with<'a>(labels: &[Label<'a>], more: Label<'a>) -> Vec<Label<'a>> {
    labels.iter().copied().chain([more]).collect()
}

fn labels_of<'a>(set: LabelSet, pool: &'a str, model: &'a str, controller: Label<'a>) -> Vec<Label<'a>> {
    let names = [("model_name", model), ("target_model_name", model)];
    let flow = [("fairness_id", "default-flow"), ("priority", "0")];
    let mut labels: Vec<Label<'a>> = match set {
        LabelSet::Flow => flow.into_iter().chain([("inference_pool", pool)]).chain(names).collect(),
        LabelSet::Request => names.into_iter().chain(flow).collect(),
        LabelSet::Model => vec![("model_name", model)],
        LabelSet::Endpoint => flow.into_iter().chain([("producer_name", "loadline")]).collect(),
        LabelSet::Outcome => vec![("priority", "0"), ("inference_pool", pool)],
        LabelSet::Pool | LabelSet::Name => Vec::new(),
    };
    labels.push(controller);
    labels
}

/// The mean over models of the share of slots in use; a model without a replica counts as full, as in the endpoint picker.
fn saturation(rows: &[&Row]) -> f64 {
    let each = rows.iter().map(|row| {
        let serving = || row.replicas.iter().filter(|replica| replica.phase == ReplicaPhase::Serving);
        let slots: f64 = serving().map(|replica| f64::from(replica.slots)).sum();
        let used: f64 = serving().map(|replica| f64::from(replica.in_flight)).sum();
        if slots > 0.0 { (used + f64::from(row.counts.held)) / slots } else { 1.0 }
    });
    if rows.is_empty() { 1.0 } else { each.sum::<f64>() / usize_to_f64(rows.len()) }
}
