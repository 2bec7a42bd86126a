//! Where a request goes: an `http` or `https` URL in parts.

use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// The transport of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// TCP.
    Http,
    /// TLS over TCP.
    Https,
}

impl Scheme {
    /// The name in a URL.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port where a URL names none.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// A parsed URL without user, password or fragment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    scheme: Scheme,
    host: String,
    port: u16,
    path: String,
}

/// Why a text is not a target.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TargetError {
    /// No `http://` or `https://` in front.
    #[error("`{url}` is not a URL that can be fetched: it must begin with `http://` or `https://`")]
    Scheme {
        /// The text as given.
        url: String,
    },
    /// A user or password is part of it.
    #[error("the URL has a user name or password in it: leave them out and set an `authorization` header instead")]
    Credentials,
    /// Something else is not as RFC 3986 wants it.
    #[error("`{url}` is not a valid URL: {why}")]
    Syntax {
        /// The text as given.
        url: String,
        /// What is wrong.
        why: &'static str,
    },
}

impl Target {
    /// A plain HTTP target at a socket address; `path` must begin with `/`, otherwise one is put in front.
    #[must_use]
    pub fn plain(address: std::net::SocketAddr, path: &str) -> Self {
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Self { scheme: Scheme::Http, host: address.ip().to_string(), port: address.port(), path }
    }

    /// The transport.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host: a name or an address, IPv6 without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, given or default.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Path and query; begins with `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The same place with another path and query; a missing leading `/` is added.
    #[must_use]
    pub fn with_path(&self, path: &str) -> Self {
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Self { path, ..self.clone() }
    }

    /// What stands in the `host` header: brackets around IPv6, the port only if it is not the default one.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == self.scheme.default_port() { host } else { format!("{host}:{}", self.port) }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(url: &str) -> Result<Self, TargetError> {
        let syntax = |why| TargetError::Syntax { url: url.to_owned(), why };
        let (name, rest) = url.split_once("://").ok_or_else(|| TargetError::Scheme { url: url.to_owned() })?;
        let scheme = match name.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(TargetError::Scheme { url: url.to_owned() }),
        };
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(TargetError::Credentials);
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        if path.bytes().any(|b| b <= b' ' || b >= 0x7f) {
            return Err(syntax("the path has a space, a control character or a letter that must be percent-encoded"));
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(bracketed) => {
                let (host, after) = bracketed.split_once(']').ok_or_else(|| syntax("`[` without `]`"))?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| syntax("what stands in `[]` is not an IPv6 address"))?;
                let port = if after.is_empty() { None } else { after.strip_prefix(':').map(Some).unwrap_or(Some("?")) };
                (host, port)
            }
            None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        if host.is_empty() {
            return Err(syntax("it names no host"));
        }
        if !authority.starts_with('[') && !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
            return Err(syntax("the host may have only letters, digits, `-`, `.` and `_`"));
        }
        let port = match port {
            None => scheme.default_port(),
            Some(digits) => digits
                .parse::<u16>()
                .ok()
                .filter(|port| *port != 0 && digits.bytes().all(|b| b.is_ascii_digit()))
                .ok_or_else(|| syntax("the port is not a number from 1 to 65535"))?,
        };
        Ok(Self { scheme, host: host.to_ascii_lowercase(), port, path })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme.as_str(), self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_written_back() {
        for (url, host, port, written) in [
            ("http://127.0.0.1:8000/metrics", "127.0.0.1", 8000, "http://127.0.0.1:8000/metrics"),
            ("HTTP://Host", "host", 80, "http://host/"),
            ("https://a.b:443/x?y=1#part", "a.b", 443, "https://a.b/x?y=1"),
            ("http://[::1]:9090?q", "::1", 9090, "http://[::1]:9090/?q"),
            ("http://[::1]", "::1", 80, "http://[::1]/"),
            ("http://my_host:1", "my_host", 1, "http://my_host:1/"),
        ] {
            let target: Target = url.parse().expect(url);
            assert_eq!((target.host(), target.port(), target.to_string().as_str()), (host, port, written), "{url}");
            assert_eq!(written.parse::<Target>().expect(written), target);
        }
        let address: std::net::SocketAddr = "[::1]:80".parse().expect("address");
        assert_eq!(Target::plain(address, "health").to_string(), "http://[::1]/health");
        assert_eq!(Target::plain(address, "/a").with_path("b").path(), "/b");
    }

    #[test]
    fn what_is_not_a_url_is_refused_with_the_reason() {
        for (url, part) in [
            ("", "must begin with"),
            ("metrics.txt", "must begin with"),
            ("localhost:8000", "must begin with"),
            ("ftp://a/b", "must begin with"),
            ("http://", "no host"),
            ("http://:80", "no host"),
            ("http://a:0", "port"),
            ("http://a:65536", "port"),
            ("http://a:+1", "port"),
            ("http://a:", "port"),
            ("http://a b/", "the host"),
            ("http://a/b c", "percent"),
            ("http://a/é", "percent"),
            ("http://[::1", "without"),
            ("http://[x]", "IPv6"),
            ("http://[::1]80", "port"),
            ("http://u:p@h/", "user name"),
        ] {
            let error = url.parse::<Target>().expect_err(url).to_string();
            assert!(error.contains(part), "{url}: {error}");
            assert!(!error.contains("u:p"), "credentials never reach a message");
        }
    }
}
