//! The walk over a page.

use super::error::{ExpositionError, LineProblem, Problem};
use super::labels::skip_blank;
use super::line::{Line, MetadataKind, Sample, read_metadata, read_sample, split_family, split_metadata};
use super::wanted::{LastName, WantedNames, wants_name};
use super::{BadLines, Format, Options, Summary};

/// The comment that ends an OpenMetrics page.
const EOF: &[u8] = b"# EOF";

/// Reads a page and hands every wanted line to `visit`, in the page's order.
///
/// Lines whose name is not wanted are neither parsed nor checked, and nothing is allocated for them. Comments and blank lines are not visited.
///
/// # Errors
/// With the offset in the page: a page that is too large, has too many wanted samples, is no metrics page at all (HTML, JSON, protobuf, prose), or is
/// OpenMetrics and cut off; with [`BadLines::Fail`] also the first bad line. The visitor has then already seen the lines before it:
/// drop what it collected.
pub fn scan<'a>(
    page: &'a [u8],
    wanted: &WantedNames,
    options: &Options,
    mut visit: impl FnMut(Line<'a>),
) -> Result<Summary, ExpositionError> {
    let limit = options.limits.max_page_bytes;
    if page.len() > limit {
        return Err(ExpositionError::at(page, 0, 1, Problem::PageTooLarge { bytes: page.len(), limit }));
    }
    let ends_with_eof = last_line(page) == EOF;
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
        last: LastName::default(),
        summary: Summary::default(),
    };
    let mut rest = page;
    while !rest.is_empty() {
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let (line, tail) = rest.split_at_checked(end).unwrap_or((rest, &[]));
        let offset = page.len() - rest.len();
        rest = tail.get(1..).unwrap_or_default();
        walk.summary.lines += 1;
        if let Err(found) = walk.line(line, &mut visit) {
            walk.bad_line(offset + line.len() - found.left, found.problem)?;
        }
    }
    walk.finish(ends_with_eof)
}

/// The last line that is not blank, without blanks at its end.
fn last_line(page: &[u8]) -> &[u8] {
    let text = page.trim_ascii_end();
    let start = memchr::memrchr(b'\n', text).map_or(0, |at| at + 1);
    text.get(start..).unwrap_or_default()
}

struct Walk<'a, 'o> {
    page: &'a [u8],
    wanted: &'o WantedNames,
    options: &'o Options,
    open_metrics: bool,
    /// Whether some line has shown that this is a metrics page; until then unwanted lines are checked too.
    proved: bool,
    last: LastName<'a>,
    summary: Summary,
}

impl<'a> Walk<'a, '_> {
    #[inline]
    fn line(&mut self, line: &'a [u8], visit: &mut impl FnMut(Line<'a>)) -> Result<(), LineProblem> {
        if self.proved
            && line.first().is_some_and(|first| *first != b'#')
            && !self.wanted.is_all()
            && self.last.wanted(line, self.wanted) == Some(false)
        {
            return Ok(());
        }
        self.full_line(line, visit)
    }

    fn full_line(&mut self, line: &'a [u8], visit: &mut impl FnMut(Line<'a>)) -> Result<(), LineProblem> {
        if self.proved && line.first() == Some(&b'#') && self.skips_metadata(line) {
            return Ok(());
        }
        let limit = self.options.limits.max_line_bytes;
        if line.len() > limit {
            return Err(LineProblem { left: line.len(), problem: Problem::LineTooLong { bytes: line.len(), limit } });
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = std::str::from_utf8(line)
            .map_err(|error| LineProblem { left: line.len() - error.valid_up_to(), problem: Problem::NotUtf8 })?;
        let text = skip_blank(text);
        if text.is_empty() {
            return Ok(());
        }
        if text.starts_with('#') {
            return self.metadata(text, visit);
        }
        let sample = read_sample(text, self.open_metrics, self.options.limits.max_labels_per_sample)?;
        self.proved = true;
        self.sample(sample, visit)
    }

    /// Whether this is a metadata line in its usual spelling for a name that is not wanted.
    fn skips_metadata(&mut self, line: &'a [u8]) -> bool {
        if self.wanted.is_all() {
            return false;
        }
        let body = line.strip_prefix(b"# HELP ").or_else(|| line.strip_prefix(b"# TYPE "));
        body.is_some_and(|body| !body.starts_with(b"\"") && self.last.wanted(body, self.wanted) == Some(false))
    }

    fn metadata(&mut self, text: &'a str, visit: &mut impl FnMut(Line<'a>)) -> Result<(), LineProblem> {
        let Some((kind, body)) = split_metadata(text) else {
            return Ok(());
        };
        // a comment that happens to begin with one of the words
        if body.is_empty() && kind != MetadataKind::Type {
            return Ok(());
        }
        let (name, rest) = split_family(body)?;
        if !wants_name(self.wanted, &name) {
            self.proved = true;
            return Ok(());
        }
        let line = read_metadata(kind, name, rest)?;
        self.proved = true;
        visit(line);
        Ok(())
    }

    fn sample(&mut self, sample: Sample<'a>, visit: &mut impl FnMut(Line<'a>)) -> Result<(), LineProblem> {
        if wants_name(self.wanted, &sample.name) {
            self.summary.samples += 1;
            if self.summary.samples <= self.options.limits.max_samples {
                visit(Line::Sample(sample));
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
