//! The certificate that a coordinator shows.

use ropewalk_shared::wire::connection::trusted;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{RootCertStore, ServerConfig};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::transport::{Identity, ServerTlsConfig};

/// Whoever connects has this long for the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A certificate with its chain, and its key.
#[derive(Clone)]
pub struct Tls {
    identity: Identity,
}

/// Why files are no certificate and key to serve with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTls {
    /// A file cannot be read.
    #[error("{option} {}: {error}; name a PEM file that this user may read", .path.display())]
    Unreadable {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A file holds something else.
    #[error("{option} {}: {reason}; docs/security.md says how to make one", .path.display())]
    NotPem {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Each for itself is good, or nearly.
    #[error(
        "--tls-key {} does not go with the first certificate of --tls-cert {}: {reason}", .key.display(), .certificate.display()
    )]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

// === impl Tls ===

impl Tls {
    /// Reads and checks both files: a certificate followed by those that lead to its issuer, and its private key.
    ///
    /// # Errors
    /// [`InvalidTls`] names the file.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, InvalidTls> {
        let (chain_pem, chain) = read_certificates("--tls-cert", certificate)?;
        let (option, key_pem) = ("--tls-key", read("--tls-key", key)?);
        let parsed = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|error| {
            let reason = format!("it holds no private key in PEM ({error})");
            InvalidTls::NotPem { option, path: key.to_owned(), reason }
        })?;
        let config =
            ServerConfig::builder_with_provider(default_provider().into()).with_safe_default_protocol_versions();
        config.and_then(|config| config.with_no_client_auth().with_single_cert(chain, parsed)).map_err(|error| {
            InvalidTls::Pair { certificate: certificate.to_owned(), key: key.to_owned(), reason: error.to_string() }
        })?;
        Ok(Self { identity: Identity::from_pem(chain_pem, key_pem) })
    }

    pub(super) fn config(&self) -> ServerTlsConfig {
        ServerTlsConfig::new().identity(self.identity.clone()).timeout(HANDSHAKE)
    }
}

impl fmt::Debug for Tls {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

/// The certificates in a PEM file, at least one, with the text they stand in.
///
/// # Errors
/// [`InvalidTls`] names the file.
pub fn read_certificates(
    option: &'static str,
    path: &Path,
) -> Result<(Vec<u8>, Vec<CertificateDer<'static>>), InvalidTls> {
    let pem = read(option, path)?;
    let certificates = trusted(&pem).map_err(|reason| InvalidTls::NotPem { option, path: path.to_owned(), reason })?;
    Ok((pem, certificates))
}

fn read(option: &'static str, path: &Path) -> Result<Vec<u8>, InvalidTls> {
    std::fs::read(path).map_err(|error| InvalidTls::Unreadable { option, path: path.to_owned(), error })
}

/// Whether certificates to trust vouch for one that is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vouched {
    /// They do.
    Yes,
    /// They do, for another host.
    OtherName(String),
    /// They do not.
    No(String),
}

/// Whether clients of this host that trust these roots accept this chain, now.
pub fn vouched(chain: &[CertificateDer<'static>], roots: Vec<CertificateDer<'static>>, host: &str) -> Vouched {
    use rustls::CertificateError::{NotValidForName, NotValidForNameContext};
    let verify = || {
        let [certificate, intermediates @ ..] = chain else { return Err("there is no certificate".to_owned()) };
        let name = ServerName::try_from(host).map_err(|error| format!("{host:?}: {error}"))?;
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots);
        let verifier = WebPkiServerVerifier::builder_with_provider(store.into(), default_provider().into());
        let verifier = verifier.build().map_err(|error| error.to_string())?;
        Ok(verifier.verify_server_cert(certificate, intermediates, &name, &[], UnixTime::now()))
    };
    match verify() {
        Ok(Ok(_)) => Vouched::Yes,
        Ok(Err(error @ rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }))) => {
            Vouched::OtherName(error.to_string())
        }
        Ok(Err(error)) => Vouched::No(error.to_string()),
        Err(reason) => Vouched::No(reason),
    }
}
