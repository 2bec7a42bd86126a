//! The end of a replica's output.

use loadline_base::ReplicaId;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// The last lines of both outputs of one replica.
#[derive(Debug, Clone)]
pub(crate) struct LogTail {
    lines: Arc<Mutex<VecDeque<String>>>,
    max_lines: usize,
    max_bytes: usize,
}

impl LogTail {
    pub(crate) fn new(max_lines: usize, max_bytes: usize) -> Self {
        Self { lines: Arc::default(), max_lines, max_bytes }
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn push(&self, line: &[u8]) -> String {
        let text = String::from_utf8_lossy(line).trim_end_matches(['\n', '\r']).to_owned();
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push_back(text.clone());
        while lines.len() > self.max_lines {
            lines.pop_front();
        }
        text
    }

    /// Reads one output to its end; what is longer than the limit is cut from its line.
    pub(crate) async fn read(self, output: impl AsyncRead + Unpin, forward_as: Option<ReplicaId>) {
        let mut reader = BufReader::new(output);
        let mut line = Vec::new();
        loop {
            let (used, ended) = match reader.fill_buf().await {
                Ok([]) | Err(_) => break,
                Ok(bytes) => {
                    let end = bytes.iter().position(|b| *b == b'\n');
                    let piece = bytes.split_at(end.unwrap_or(bytes.len())).0;
                    let room = self.max_bytes.saturating_sub(line.len());
                    line.extend_from_slice(piece.split_at(room.min(piece.len())).0);
                    (piece.len() + usize::from(end.is_some()), end.is_some())
                }
            };
            reader.consume(used);
            if ended {
                self.finish(&mut line, forward_as.as_ref());
            }
        }
        if !line.is_empty() {
            self.finish(&mut line, forward_as.as_ref());
        }
    }

    fn finish(&self, line: &mut Vec<u8>, forward_as: Option<&ReplicaId>) {
        let text = self.push(line);
        line.clear();
        if let Some(replica) = forward_as {
            tracing::info!(target: "loadline::replica", "[{replica}] {text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_lines_are_kept_and_long_ones_cut() {
        let tail = LogTail::new(3, 5);
        tail.clone().read(&b"one\ntwo\r\n\n123456789\nlast"[..], None).await;
        assert_eq!(tail.lines(), ["", "12345", "last"]);
    }
}
