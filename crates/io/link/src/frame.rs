//! What is on the wire: a length of four bytes, most significant first, and that much JSON.

use loadline_base::{GatewayId, ModelId, Timestamp};
use loadline_hold::protocol::{GatewayOrder, GatewayReport};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The version of the protocol. Peers of different versions do not talk.
pub const PROTOCOL: u32 = 1;

/// From a gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum ClientFrame {
    /// The first words.
    Hello { protocol: u32, gateway: GatewayId, models: Vec<ModelId>, sent_at: Timestamp },
    /// The models are these from now on.
    Models { models: Vec<ModelId> },
    /// A report; `sent_at` is the gateway's clock when the frame was written.
    Report { sent_at: Timestamp, report: GatewayReport },
    /// Nothing to say.
    Heartbeat { sent_at: Timestamp },
}

/// From the writer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum ServerFrame {
    /// The gateway was taken in.
    Welcome { protocol: u32 },
    /// Somebody else writes; where, if it is known. The connection ends.
    NotWriter { writer: Option<String> },
    /// The gateway was not taken in, or broke a rule. The connection ends.
    Refused { why: String },
    /// An order.
    Order { order: GatewayOrder },
    /// How many reports of this connection have been taken in.
    Heartbeat { received: u64 },
}

/// Why a connection ended, for people.
#[derive(Debug, Error)]
pub(crate) enum Broken {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the peer said nothing, or took nothing, for {}", loadline_base::format_duration(*.0))]
    Silent(Duration),
    #[error("a frame of {0} bytes is longer than {1}")]
    TooLong(usize, usize),
    #[error("a frame cannot be read: {0}")]
    Garbage(serde_json::Error),
    #[error("{0}")]
    Rule(String),
}

/// Appends a frame; one that is too long is an error and appends nothing.
pub(crate) fn write_frame<T: Serialize>(frame: &T, most: usize, buffer: &mut Vec<u8>) -> Result<(), Broken> {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; 4]);
    let written = serde_json::to_writer(&mut *buffer, frame).map_err(Broken::Garbage);
    let length = buffer.len() - start - 4;
    let fits = if length > most { Err(Broken::TooLong(length, most)) } else { Ok(()) };
    if let Err(error) = written.and(fits) {
        buffer.truncate(start);
        return Err(error);
    }
    let prefix = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    if let Some(place) = buffer.get_mut(start..start + 4) {
        place.copy_from_slice(&prefix);
    }
    Ok(())
}

/// Reads one frame within `patience`.
pub(crate) async fn read_frame<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    most: usize,
    patience: Duration,
    buffer: &mut Vec<u8>,
) -> Result<T, Broken> {
    let read = async {
        let length = stream.read_u32().await?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > most {
            return Err(Broken::TooLong(length, most));
        }
        buffer.resize(length, 0);
        stream.read_exact(buffer).await?;
        Ok(())
    };
    tokio::time::timeout(patience, read).await.map_err(|_| Broken::Silent(patience))??;
    serde_json::from_slice(buffer).map_err(Broken::Garbage)
}

/// Writes and clears a buffer within `patience`.
pub(crate) async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    patience: Duration,
    buffer: &mut Vec<u8>,
) -> Result<(), Broken> {
    let write = async {
        stream.write_all(buffer).await?;
        stream.flush().await
    };
    tokio::time::timeout(patience, write).await.map_err(|_| Broken::Silent(patience))??;
    buffer.clear();
    Ok(())
}
