//! Manifests and configuration: from text with positions to the inputs of `loadline-policy`.
//!
//! Invariants
//! - Every complaint names file, line, column and field, what is wrong and what to do.
//! - Unknown fields and duplicate keys are errors; every input is bounded by a named limit.
//! - A default stands in exactly one table, which is also the reference page.
//!
//! Deliberately absent: files (the caller reads them), clusters, and decisions.

pub mod autoscaler;
pub mod config;
pub mod defaults;
pub mod hpa;
pub mod monitor;
pub mod observed;
pub mod serve;
pub mod yaml;

pub use yaml::{Fault, Faults, Limits};

/// Fields of `loadline.yaml` that have no default, or whose value has a structure: name, meaning.
const WRITTEN: &[(&str, &str)] = &[
    ("models[].name", "as clients name it in `model`; required, all different"),
    (
        "models[].command",
        "program and arguments of one replica; `{port}` is its port, `{slot}` its slot counted from 0, `{gpu}` the list of `gpus.devices` of that slot with commas between (`0,1`); either this or `engine`",
    ),
    ("models[].engine", "the built-in engine instead of a command; `{}` for all its defaults"),
    ("models[].metrics[].type", "`Signal`, or `Pods` or `External` as in autoscaling/v2; the largest proposal holds"),
    ("models[].metrics[].signal", "`name` (see below) and `target: {type: AverageValue, averageValue: N}`"),
    (
        "models[].metrics[].pods",
        "`metric.name`: a series of the replicas' own pages (`:` and `_` are equal), `metric.selector.matchLabels`, `target.averageValue` per replica",
    ),
    (
        "models[].metrics[].external",
        "`metric.name`: a gateway metric (see below) or a series added over all replicas, `target.value` or `target.averageValue`",
    ),
    (
        "models[].behavior",
        "`scaleUp` and `scaleDown` with `stabilizationWindowSeconds`, `selectPolicy`, `policies[] {type, value, periodSeconds}` and `tolerance`, as in autoscaling/v2",
    ),
];

/// The reference page of `loadline.yaml`; `docs/reference/configuration.md` is this text.
#[must_use]
pub fn configuration_page() -> String {
    use std::fmt::Write as _;
    let mut out = "# loadline.yaml\n\nGenerated from the tables in `crates/pure/manifest` (`cargo xtask codegen`); do not edit.\n\n\
        `loadline up -f FILE --print-config` prints every value in force. Unknown fields are errors. Durations have a unit (`30s`, `5m`), \
        sizes may have a suffix (`32Mi`, `256M`). Changing the file reloads it. These are taken at the start only; \
        a change of one is warned about and takes effect with the next start: "
        .to_owned();
    let at_start: Vec<String> = config::AT_START.iter().map(|entry| format!("`{}`", entry.field)).collect();
    let _ = writeln!(out, "{}.\n\n## Written by you\n\n| field | meaning |\n| --- | --- |", at_start.join(", "));
    for (field, meaning) in WRITTEN {
        let _ = writeln!(out, "| `{field}` | {meaning} |");
    }
    let _ = write!(out, "\n## Defaults\n\n{}", defaults::markdown_table(config::defaults::TABLE));
    out.push_str(
        "\n## Signals\n\nThe same names for every engine.\n\n| name | source | meaning |\n| --- | --- | --- |\n",
    );
    for signal in loadline_policy::signal::SIGNALS {
        let source = if signal.gateway { "gateway" } else { "engines" };
        let _ = writeln!(out, "| `{}` | {source} | {} |", signal.name, signal.meaning);
    }
    out.push_str(
        "\n## Gateway metrics\n\nAs `type: External` these names mean this model's own counts at the gateway, which also answer at zero \
         replicas. Their selectors are not looked at. Any other name is a series of the replicas' pages.\n\n| name | meaning |\n| --- | --- |\n",
    );
    for (name, origin) in config::GATEWAY_METRICS {
        let meaning = match origin {
            config::Origin::GatewayHeld => "requests held",
            config::Origin::GatewayInFlight => "requests in flight",
            _ => "requests held and in flight, or their peak since the last decision if that is larger",
        };
        let _ = writeln!(out, "| `{name}` | {meaning} |");
    }
    out.push_str(
        "\n`Resource`, `ContainerResource` and `Object` metrics are refused: replicas' cpu and memory are not measured, and one machine has \
         no Kubernetes objects.\n",
    );
    out
}

/// The reference page of what an HPA gets where it says nothing; `docs/reference/hpa-defaults.md` is this text.
#[must_use]
pub fn hpa_defaults_page() -> String {
    format!(
        "# HorizontalPodAutoscaler defaults\n\nGenerated from the tables in `crates/pure/manifest` (`cargo xtask codegen`); do not edit.\n\n{}",
        defaults::markdown_table(hpa::defaults::TABLE)
    )
}

/// The reference page of `serve.yaml`; `docs/reference/serve.md` is this text.
#[must_use]
pub fn serve_page() -> String {
    format!(
        "# serve.yaml\n\nGenerated from the tables in `crates/pure/manifest` (`cargo xtask codegen`); do not edit.\n\n\
         The file of `loadline serve --config FILE`; the chart writes it from its value `config`. Every field may be left out, unknown \
         fields are errors. Durations have a unit (`30s`, `5m`), sizes may have a suffix (`8Mi`). It is read at the start.\n\n{}",
        defaults::markdown_table(serve::defaults::TABLE)
    )
}
