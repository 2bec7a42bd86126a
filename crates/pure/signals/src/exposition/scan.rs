//! The walk over a page.

use super::error::{ExpositionError, LineProblem, Problem};
use super::labels::skip_blank;
use super::line::{Line, MetadataKind, Sample, read_metadata, read_sample, split_family, split_metadata};
use super::wanted::{LastName, WantedNames};
use super::{BadLines, Format, Options, Summary};

/// The comment that ends an OpenMetrics page.
const EOF: &[u8] = b"# EOF";

const LINES_BEHIND_EOF: &str = "nothing may follow `# EOF`; serve one page only";

/// Reads a page and hands every wanted line to `visit`, in the page's order.
///
/// Lines whose name is not wanted are neither parsed nor checked, and nothing is allocated for them. Comments and blank lines are not visited.
/// On an OpenMetrics page a `# EOF` with lines behind it is a bad line: pages were put one behind the other.
///
/// # Errors
/// With the offset in the page: a page that is too large, has too many wanted samples, is no metrics page at all (HTML, JSON, protobuf, prose), or is
/// OpenMetrics and cut off; with [`BadLines::Fail`] also the first bad line. The visitor has then already seen the lines before it:
/// drop what it collected.
pub fn scan<'a>(
    page: &'a [u8],
    wanted: &WantedNames,
    options: &Options,
    visit: impl FnMut(Line<'a>),
) -> Result<Summary, ExpositionError> {
    scan_with(page, wanted, options, &mut Calls(visit))
}

/// Receives the lines of a page.
pub(crate) trait Visit<'a> {
    /// A line before anything else is done with it. Whoever knows what it says takes it by giving `true`; then it is not read at all.
    fn known(&mut self, line: &'a [u8], open_metrics: bool) -> bool;

    /// A wanted line that was read.
    fn line(&mut self, line: Line<'a>);
}

/// A visitor that knows nothing.
struct Calls<F>(F);

impl<'a, F: FnMut(Line<'a>)> Visit<'a> for Calls<F> {
    #[inline]
    fn known(&mut self, _: &'a [u8], _: bool) -> bool {
        false
    }

    #[inline]
    fn line(&mut self, line: Line<'a>) {
        (self.0)(line);
    }
}

/// [`scan`] with a visitor that may know lines already. Lines that it takes count as lines only.
pub(crate) fn scan_with<'a>(
    page: &'a [u8],
    wanted: &WantedNames,
    options: &Options,
    visitor: &mut impl Visit<'a>,
) -> Result<Summary, ExpositionError> {
    let limit = options.limits.max_page_bytes;
    if page.len() > limit {
        return Err(ExpositionError::at(page, 0, 1, Problem::PageTooLarge { bytes: page.len(), limit }));
    }
    let last_line = last_line(page);
    let ends_with_eof = page.get(last_line..).unwrap_or_default().trim_ascii_end() == EOF;
    let open_metrics = match options.format {
        Format::Detect => ends_with_eof,
        Format::Text => false,
        Format::OpenMetrics => true,
    };
    let mut walk = Walk {
        page,
        wanted,
        options,
        open_metrics,
        proved: false,
        last_line,
        // one check of the whole page is cheaper than one of each line where every line is read
        text: if wanted.is_all() { std::str::from_utf8(page).ok() } else { None },
        last: LastName::default(),
        previous: "",
        summary: Summary::default(),
    };
    let mut rest = page;
    while !rest.is_empty() {
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let (line, tail) = rest.split_at_checked(end).unwrap_or((rest, &[]));
        walk.summary.lines += 1;
        if visitor.known(line, open_metrics) {
            walk.proved = true;
        } else if !walk.skips(line) {
            let offset = page.len() - rest.len();
            if let Err(found) = walk.line(line, offset, visitor) {
                walk.bad_line(offset + line.len() - found.left, found.problem)?;
            }
        }
        rest = tail.get(1..).unwrap_or_default();
    }
    walk.finish(ends_with_eof)
}

/// Where the last line that is not blank begins.
fn last_line(page: &[u8]) -> usize {
    memchr::memrchr(b'\n', page.trim_ascii_end()).map_or(0, |at| at + 1)
}

struct Walk<'a, 'o> {
    page: &'a [u8],
    wanted: &'o WantedNames,
    options: &'o Options,
    open_metrics: bool,
    /// Whether some line has shown that this is a metrics page; until then unwanted lines are checked too.
    proved: bool,
    /// Where the last line that is not blank begins.
    last_line: usize,
    /// The page, where it is known to be UTF-8.
    text: Option<&'a str>,
    last: LastName<'a>,
    /// The legacy name read last; empty before the first.
    previous: &'a str,
    summary: Summary,
}

impl<'a> Walk<'a, '_> {
    /// Whether a line can be left out unread: a sample, or metadata in its usual spelling, of a name that is not wanted.
    #[inline]
    fn skips(&mut self, line: &'a [u8]) -> bool {
        if !self.proved || self.wanted.is_all() {
            return false;
        }
        let named = match line {
            [b'#', ..] => match line.strip_prefix(b"# HELP ").or_else(|| line.strip_prefix(b"# TYPE ")) {
                None | Some([b'"', ..]) => return false,
                Some(body) => body,
            },
            _ => line,
        };
        self.last.wanted(named, self.wanted) == Some(false)
    }

    fn line(&mut self, line: &'a [u8], offset: usize, visit: &mut impl Visit<'a>) -> Result<(), LineProblem> {
        let limit = self.options.limits.max_line_bytes;
        if line.len() > limit {
            return Err(LineProblem { left: line.len(), problem: Problem::LineTooLong { bytes: line.len(), limit } });
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = match self.text.and_then(|text| text.get(offset..offset + line.len())) {
            Some(text) => text,
            None => std::str::from_utf8(line)
                .map_err(|error| LineProblem { left: line.len() - error.valid_up_to(), problem: Problem::NotUtf8 })?,
        };
        let text = skip_blank(text);
        match text.as_bytes().first() {
            None => return Ok(()),
            Some(b'#') => return self.metadata(text, offset, visit),
            Some(_) => {}
        }
        let sample = read_sample(text, self.previous, self.open_metrics, self.options.limits.max_labels_per_sample)?;
        self.proved = true;
        self.remember(text, &sample.name);
        self.sample(sample, visit)
    }

    /// Keeps a name if it is served bare, not quoted; a bare one begins the text.
    #[inline]
    fn remember(&mut self, text: &'a str, name: &str) {
        if !text.starts_with(['{', '"']) {
            self.previous = text.get(..name.len()).unwrap_or_default();
        }
    }

    fn metadata(&mut self, text: &'a str, offset: usize, visit: &mut impl Visit<'a>) -> Result<(), LineProblem> {
        let Some((kind, body)) = split_metadata(text) else {
            if self.open_metrics && offset < self.last_line && text.as_bytes().trim_ascii_end() == EOF {
                return Err(LineProblem { left: text.len(), problem: Problem::Rule { rule: LINES_BEHIND_EOF } });
            }
            return Ok(());
        };
        // a comment that happens to begin with one of the words
        if body.is_empty() && kind != MetadataKind::Type {
            return Ok(());
        }
        let (name, rest) = split_family(body, self.previous)?;
        self.remember(body, &name);
        if !self.last.wants_name(&name, self.wanted) {
            self.proved = true;
            return Ok(());
        }
        let line = read_metadata(kind, name, rest)?;
        self.proved = true;
        visit.line(line);
        Ok(())
    }

    fn sample(&mut self, sample: Sample<'a>, visit: &mut impl Visit<'a>) -> Result<(), LineProblem> {
        if self.last.wants_name(&sample.name, self.wanted) {
            self.summary.samples += 1;
            if self.summary.samples <= self.options.limits.max_samples {
                visit.line(Line::Sample(sample));
            } else {
                let limit = self.options.limits.max_samples;
                return Err(LineProblem { left: sample.series.len(), problem: Problem::TooManySamples { limit } });
            }
        }
        Ok(())
    }

    fn bad_line(&mut self, offset: usize, problem: Problem) -> Result<(), ExpositionError> {
        let remembers = self.summary.errors.len() < self.options.limits.max_remembered_errors;
        let fatal = self.options.bad_lines == BadLines::Fail || matches!(problem, Problem::TooManySamples { .. });
        self.summary.bad_lines += 1;
        if fatal || remembers {
            let error = ExpositionError::at(self.page, offset, self.summary.lines, problem);
            if fatal {
                return Err(self.not_metrics().unwrap_or(error));
            }
            self.summary.errors.push(error);
        }
        Ok(())
    }

    /// What the page is, where its beginning says that it is none of ours.
    fn not_metrics(&self) -> Option<ExpositionError> {
        if self.proved {
            return None;
        }
        let what = match self.page.trim_ascii_start() {
            [b'<', ..] => "an HTML or XML page",
            [b'{' | b'[', ..] => "a JSON document",
            [0x1F, 0x8B, ..] => "a gzip stream",
            head if head.iter().take(64).any(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace()) => {
                "a binary body"
            }
            _ if self.options.bad_lines == BadLines::Fail => return None,
            _ => "a text without a single metric line",
        };
        Some(ExpositionError::at(self.page, 0, 1, Problem::NotMetrics { what }))
    }

    fn finish(mut self, ends_with_eof: bool) -> Result<Summary, ExpositionError> {
        if self.summary.bad_lines > 0
            && let Some(error) = self.not_metrics()
        {
            return Err(error);
        }
        if self.open_metrics && !ends_with_eof {
            return Err(ExpositionError::at(self.page, self.page.len(), self.summary.lines, Problem::Truncated));
        }
        self.summary.open_metrics = self.open_metrics;
        Ok(self.summary)
    }
}
