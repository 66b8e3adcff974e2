//! Who may call a coordinator, and whom its callers believe.

mod token;

pub use token::{InvalidToken, MAX_TOKEN_BYTES, MAX_TOKEN_FILE_BYTES, MIN_TOKEN_BYTES, Token};

use std::net::IpAddr;
use std::sync::Arc;

/// What a client or worker brings along when it connects to a coordinator.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Access {
    /// Sent with every call; absent where the coordinator asks for none.
    pub token: Option<Token>,
    /// Certificates in PEM of those who may vouch for an `https://` coordinator; absent for the system's.
    pub roots: Option<Arc<[u8]>>,
}

// === impl Access ===

impl Access {
    /// Why whoever is on the way to this URL can read the token; `None` where nobody can, or none is sent.
    pub fn exposed(&self, url: &str) -> Option<String> {
        let plain = url.strip_prefix("http://").or_else(|| (!url.contains("://")).then_some(url))?;
        (self.token.is_some() && !is_loopback(plain)).then(|| {
            format!("the token goes to {plain} unencrypted, for everybody on the way to read; serve with TLS and use https://")
        })
    }
}

/// Whether a host, with or without a port, is this machine and cannot be another.
pub fn is_loopback(authority: &str) -> bool {
    let authority = authority.split('/').next().unwrap_or(authority);
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(v6),
        None => authority.split(':').next().unwrap_or(authority),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_exposed_on_plain_connections_to_other_machines() {
        let token = Token::parse(b"0123456789abcdef").unwrap();
        let access = Access { token: Some(token), roots: None };
        for exposed in
            ["http://node:7311", "node:7311", "http://10.0.0.1:1", "http://[2001:db8::1]:1", "http://127.com"]
        {
            assert!(access.exposed(exposed).is_some(), "{exposed}");
            assert!(Access::default().exposed(exposed).is_none());
        }
        for safe in ["http://127.0.0.1:7311", "localhost:1", "http://[::1]:7311", "http://LOCALHOST/", "https://node:1"]
        {
            assert!(access.exposed(safe).is_none(), "{safe}");
        }
    }
}
