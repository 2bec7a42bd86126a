//! Lines of bounded length, blank ones passed over.

use super::TraceError;
use std::io::BufRead;

/// Reads one line at a time into one reused buffer.
#[derive(Debug)]
pub(super) struct Lines<R> {
    input: R,
    buffer: Vec<u8>,
    number: u64,
    limit: usize,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(input: R, limit: usize) -> Self {
        Self { input, buffer: Vec::new(), number: 0, limit }
    }

    /// The current line without its end and without surrounding blanks.
    pub(super) fn line(&self) -> &[u8] {
        let line = if self.number == 1 {
            self.buffer.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.buffer)
        } else {
            &self.buffer
        };
        line.trim_ascii()
    }

    /// The current line's number, from 1.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// Moves to the next line that is not blank; false at the end.
    pub(super) fn advance(&mut self) -> Result<bool, TraceError> {
        loop {
            if !self.read_line()? {
                return Ok(false);
            }
            if !self.line().is_empty() {
                return Ok(true);
            }
        }
    }

    fn read_line(&mut self) -> Result<bool, TraceError> {
        self.buffer.clear();
        self.number += 1;
        let line = self.number;
        loop {
            let chunk = match self.input.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(TraceError::Read { line, source }),
            };
            if chunk.is_empty() {
                return Ok(!self.buffer.is_empty());
            }
            let end = memchr::memchr(b'\n', chunk);
            let (part, used) = chunk.split_at(end.unwrap_or(chunk.len()));
            if self.buffer.len() + part.len() > self.limit {
                return Err(TraceError::LineTooLong { line, limit: self.limit });
            }
            self.buffer.extend_from_slice(part);
            let consumed = part.len() + usize::from(!used.is_empty());
            self.input.consume(consumed);
            if end.is_some() {
                return Ok(true);
            }
        }
    }
}
