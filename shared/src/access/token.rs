//! The secret that callers share with their coordinator.

use std::fmt;
use std::sync::Arc;
use subtle::ConstantTimeEq as _;

/// Fewest bytes of a token: one that can be guessed is none.
pub const MIN_TOKEN_BYTES: usize = 16;
/// Most bytes of a token: it travels in a header of every call.
pub const MAX_TOKEN_BYTES: usize = 4096;

/// Most bytes of a token's file that are read: what exceeds this is none, whatever white space surrounds it.
pub const MAX_TOKEN_FILE_BYTES: u64 = MAX_TOKEN_BYTES as u64 + 1025;

/// A token. It is never shown: not in logs, not in errors, not by `Debug`.
#[derive(Clone)]
pub struct Token(Arc<str>);

/// Why something is no token; says nothing of what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidToken {
    /// There is nothing but white space.
    #[error("it is empty; `openssl rand -hex 32` makes a token")]
    Empty,
    /// Too easily guessed.
    #[error("the token has {0} bytes, at least {MIN_TOKEN_BYTES} are needed; `openssl rand -hex 32` makes one of 64")]
    Short(usize),
    /// Too large for a header.
    #[error("the token has more than {MAX_TOKEN_BYTES} bytes; `openssl rand -hex 32` makes one of 64")]
    Long,
    /// Not one line of what a header may hold.
    #[error("a token is one line of printable ASCII without spaces; `openssl rand -hex 32` makes one")]
    Characters,
}

// === impl Token ===

impl Token {
    /// The token that a file holds: one line, without the white space around it.
    ///
    /// # Errors
    /// [`InvalidToken`]
    pub fn parse(content: &[u8]) -> Result<Self, InvalidToken> {
        let token = content.trim_ascii();
        match token.len() {
            0 => return Err(InvalidToken::Empty),
            // Before anything is said about its length: this may be any file.
            _ if !token.iter().all(u8::is_ascii_graphic) => return Err(InvalidToken::Characters),
            short if short < MIN_TOKEN_BYTES => return Err(InvalidToken::Short(short)),
            long if long > MAX_TOKEN_BYTES => return Err(InvalidToken::Long),
            _ => {}
        }
        let token = std::str::from_utf8(token).map_err(|_| InvalidToken::Characters)?;
        Ok(Self(token.into()))
    }

    /// The token itself, to be sent.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// Whether this is the token, in a time that does not depend on where they differ.
    pub fn is(&self, presented: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(presented).into()
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.is(other.0.as_bytes())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_one_line_of_printable_ascii_within_bounds() {
        let token = Token::parse(b"\n  0123456789abcdef\r\n").unwrap();
        assert_eq!(token.secret(), "0123456789abcdef");
        assert!(Token::parse(&[b'~'; MAX_TOKEN_BYTES]).is_ok());
        for (content, problem) in [
            (&b""[..], InvalidToken::Empty),
            (b" \n\t\r\n", InvalidToken::Empty),
            (b"0123456789abcde", InvalidToken::Short(15)),
            (&[b'x'; MAX_TOKEN_BYTES + 1], InvalidToken::Long),
            (b"0123456789abcdef\n0123456789abcdef", InvalidToken::Characters),
            (b"0123456789 abcdef", InvalidToken::Characters),
            (b"0123456789\0abcdef", InvalidToken::Characters),
            ("0123456789abcd\u{e9}f".as_bytes(), InvalidToken::Characters),
            (b"\xff\xfe0123456789abcdef", InvalidToken::Characters),
        ] {
            assert_eq!(Token::parse(content).unwrap_err(), problem);
        }
    }

    #[test]
    fn only_the_same_is_the_same_and_nothing_shows_it() {
        let token = Token::parse(b"0123456789abcdef").unwrap();
        assert!(token.is(b"0123456789abcdef") && token == token.clone());
        for other in [&b""[..], b"0123456789abcdeg", b"0123456789abcdef ", b"0123456789abcde", b"0123456789abcdef0"] {
            assert!(!token.is(other));
        }
        assert_eq!(format!("{token:?}"), "Token");
    }
}
