//! Identities that are BLAKE3 digests, written as 64 hexadecimal digits.

use std::fmt;

/// The bytes that these 64 hexadecimal digits stand for.
pub fn from_hex(text: &str) -> Option<[u8; 32]> {
    blake3::Hash::from_hex(text).ok().map(|hash| *hash.as_bytes())
}

/// Writes two hexadecimal digits for each byte.
///
/// # Errors
/// What the writer reports.
pub fn write_hex(bytes: &[u8], out: &mut impl fmt::Write) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
}

/// Gives a type that wraps `[u8; 32]` its form as text: `Display`, `Debug`, `FromStr`, and the conversions with
/// which serde reads and writes it. The second type, a unit struct, is the error.
#[macro_export]
macro_rules! hex_digest {
    ($id:ident, $invalid:ident) => {
        impl ::std::fmt::Display for $id {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                $crate::digest::write_hex(&self.0, f)
            }
        }

        impl ::std::fmt::Debug for $id {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                write!(f, concat!(stringify!($id), "({})"), self)
            }
        }

        impl ::std::str::FromStr for $id {
            type Err = $invalid;
            fn from_str(text: &str) -> ::std::result::Result<Self, $invalid> {
                $crate::digest::from_hex(text).map(Self).ok_or($invalid)
            }
        }

        impl ::std::convert::TryFrom<String> for $id {
            type Error = $invalid;
            fn try_from(text: String) -> ::std::result::Result<Self, $invalid> {
                text.parse()
            }
        }

        impl ::std::convert::From<$id> for String {
            fn from(id: $id) -> String {
                id.to_string()
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Clone, PartialEq, Serialize, Deserialize)]
    #[serde(try_from = "String", into = "String")]
    struct Id([u8; 32]);

    #[derive(Debug, PartialEq, thiserror::Error)]
    #[error("no id")]
    struct InvalidId;

    hex_digest!(Id, InvalidId);

    #[test]
    fn digits_are_read_and_written() {
        let mut bytes = [0xAB; 32];
        bytes[0] = 1;
        let text = format!("01{}", "ab".repeat(31));
        assert_eq!(Id(bytes).to_string(), text);
        assert_eq!(format!("{:?}", Id(bytes)), format!("Id({text})"));
        assert!(text.parse() == Ok(Id(bytes)) && text.to_uppercase().parse() == Ok(Id(bytes)));
        let json = serde_json::to_string(&Id(bytes)).unwrap();
        assert!(json == format!("\"{text}\"") && serde_json::from_str::<Id>(&json).unwrap() == Id(bytes));
        for wrong in ["", &text[1..], &format!("{text}0"), &text.replace('b', "g")] {
            assert_eq!(wrong.parse::<Id>().err(), Some(InvalidId), "{wrong}");
        }
        assert!(serde_json::from_str::<Id>("\"ab\"").is_err());
    }
}
