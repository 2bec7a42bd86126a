//! The live view: redrawn in place on a terminal, one line now and then elsewhere.

use loadline_base::Timestamp;
use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Columns of history a sparkline shows.
const HISTORY: usize = 60;

/// Decisions shown under the gauges.
const DECISIONS: usize = 6;

/// Without a terminal, one line is written per this much workload time.
const LINE_PERIOD: Duration = Duration::from_secs(30);

/// One moment of the demo.
#[derive(Debug, Clone, Default)]
pub(crate) struct Moment {
    /// Time since the workload began.
    pub(crate) elapsed: Duration,
    /// How long the workload lasts.
    pub(crate) duration: Duration,
    /// Arrivals per second of workload time, lately.
    pub(crate) arrivals_per_second: f64,
    /// Requests sent, answered, failed.
    pub(crate) sent: u64,
    /// Requests with a complete answer.
    pub(crate) answered: u64,
    /// Requests without one.
    pub(crate) failed: u64,
    /// Requests held at the gateway.
    pub(crate) held: u32,
    /// Requests at replicas.
    pub(crate) in_flight: u32,
    /// Replicas that serve.
    pub(crate) ready: u32,
    /// Replicas on their way.
    pub(crate) starting: u32,
    /// Replicas finishing what they have.
    pub(crate) draining: u32,
}

/// The view.
pub(crate) struct Screen {
    header: Vec<String>,
    is_terminal: bool,
    drawn_lines: usize,
    arrivals: History,
    load: History,
    held: History,
    replicas: History,
    decisions: VecDeque<String>,
    next_line: Duration,
    next_sample: Duration,
    sample_period: Duration,
    out: std::io::Stderr,
}

impl Screen {
    /// A view on standard error with these lines on top; samples are spread over `duration` of workload time.
    pub(crate) fn new(header: Vec<String>, duration: Duration) -> Self {
        let out = std::io::stderr();
        let columns = u32::try_from(HISTORY).unwrap_or(1);
        let mut screen = Self {
            is_terminal: out.is_terminal(),
            header,
            drawn_lines: 0,
            arrivals: History::default(),
            load: History::default(),
            held: History::default(),
            replicas: History::default(),
            decisions: VecDeque::new(),
            next_line: Duration::ZERO,
            next_sample: Duration::ZERO,
            sample_period: (duration / columns).max(Duration::from_millis(100)),
            out,
        };
        for line in screen.header.clone() {
            screen.print(&line);
        }
        screen
    }

    /// Notes a scale change; it stays in view until newer ones push it out.
    pub(crate) fn decided(&mut self, started: Timestamp, at: Timestamp, from: u32, to: u32, reason: &str) {
        let line = format!("{}  {from} -> {to}  {reason}", clock_text(at.since(started)));
        if !self.is_terminal {
            self.print(&line);
        }
        if self.decisions.len() == DECISIONS {
            self.decisions.pop_front();
        }
        self.decisions.push_back(line);
    }

    /// Shows a moment.
    pub(crate) fn show(&mut self, moment: &Moment) {
        for (history, value) in [
            (&mut self.arrivals, moment.arrivals_per_second),
            (&mut self.load, f64::from(moment.in_flight)),
            (&mut self.held, f64::from(moment.held)),
            (&mut self.replicas, f64::from(moment.ready.saturating_add(moment.starting))),
        ] {
            history.see(value);
        }
        if moment.elapsed >= self.next_sample {
            self.next_sample = moment.elapsed.saturating_add(self.sample_period);
            for history in [&mut self.arrivals, &mut self.load, &mut self.held, &mut self.replicas] {
                history.close_column();
            }
        }
        if self.is_terminal {
            self.draw(moment);
        } else if moment.elapsed >= self.next_line {
            self.next_line = moment.elapsed.saturating_add(LINE_PERIOD);
            self.print(&format!(
                "{}  arrivals {:.1}/s  held {}  in flight {}  replicas {} ready, {} starting, {} draining  sent {}  answered {}  failed {}",
                clock_text(moment.elapsed),
                moment.arrivals_per_second,
                moment.held,
                moment.in_flight,
                moment.ready,
                moment.starting,
                moment.draining,
                moment.sent,
                moment.answered,
                moment.failed,
            ));
        }
    }

    /// Leaves the last picture on the screen and ends it with a line.
    pub(crate) fn finish(&mut self) {
        self.print("");
    }

    fn draw(&mut self, moment: &Moment) {
        let mut lines = vec![
            format!(
                "{}   sent {}  answered {}  failed {}",
                progress(moment),
                moment.sent,
                moment.answered,
                moment.failed
            ),
            format!("arrivals   {}  {:>5.1} /s", self.arrivals.spark(), moment.arrivals_per_second),
            format!("held       {}  {:>5}", self.held.spark(), moment.held),
            format!("in flight  {}  {:>5}", self.load.spark(), moment.in_flight),
            format!(
                "replicas   {}  {:>5} ready, {} starting, {} draining",
                self.replicas.spark(),
                moment.ready,
                moment.starting,
                moment.draining
            ),
            "why:".to_owned(),
        ];
        lines.extend(self.decisions.iter().map(|line| format!("  {line}")));
        while lines.len() < 6 + DECISIONS {
            lines.push(String::new());
        }
        let mut text = String::new();
        if self.drawn_lines > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn_lines));
        }
        for line in &lines {
            text.push_str(&format!("\x1b[2K{}\n", clipped(line, 150)));
        }
        self.drawn_lines = lines.len();
        // a closed terminal must not end the demo
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }

    fn print(&mut self, line: &str) {
        let _ = writeln!(self.out, "{line}");
    }
}

/// At most `width` characters of a line.
fn clipped(line: &str, width: usize) -> String {
    line.chars().take(width).collect()
}

/// How far the workload is, or that it is over.
fn progress(moment: &Moment) -> String {
    let now = clock_text(moment.elapsed);
    if moment.elapsed > moment.duration {
        format!("{now}, the traffic is over; back to zero")
    } else {
        format!("{now} of {}", clock_text(moment.duration))
    }
}

/// Minutes and seconds.
pub(crate) fn clock_text(span: Duration) -> String {
    format!("{:02}:{:02}", span.as_secs() / 60, span.as_secs() % 60)
}

/// The largest value per column.
#[derive(Default)]
struct History {
    columns: VecDeque<f64>,
    open: f64,
}

impl History {
    fn see(&mut self, value: f64) {
        self.open = self.open.max(value);
    }

    fn close_column(&mut self) {
        if self.columns.len() == HISTORY {
            self.columns.pop_front();
        }
        self.columns.push_back(self.open);
        self.open = 0.0;
    }

    /// A line of block characters, scaled to the largest value in view.
    fn spark(&self) -> String {
        const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let top = self.columns.iter().copied().fold(0.0, f64::max);
        let block = |value: f64| {
            let level = if top > 0.0 { (value / top * 8.0).ceil() } else { 0.0 };
            let index = usize::try_from(loadline_base::num::f64_to_u32_trunc(level)).unwrap_or(0);
            BLOCKS.get(index).copied().unwrap_or('█')
        };
        let mut line: String = self.columns.iter().map(|value| block(*value)).collect();
        line.extend(std::iter::repeat_n(' ', HISTORY - self.columns.len()));
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparklines_scale_to_the_largest_value_and_show_small_ones() {
        let mut history = History::default();
        for value in [0.0, 1.0, 8.0, 4.0] {
            history.see(value);
            history.close_column();
        }
        assert_eq!(history.spark().trim_end(), " ▁█▄");
        assert_eq!(history.spark().chars().count(), HISTORY);
    }

    #[test]
    fn times_are_minutes_and_seconds() {
        assert_eq!(clock_text(Duration::from_secs(605)), "10:05");
    }
}
