//! How callers connect: over TLS to `https://`, with the token in every call. Nothing is sent here.

use crate::access::{Access, Token};
use rustls::CertificateError;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::error::Error;
use std::io;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

/// What calls go through: a connection, and the token that goes with each.
pub type Calls = InterceptedService<Channel, Bearer>;

/// Adds the token, where there is one.
#[derive(Clone, Debug, Default)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

/// What keeps a TLS connection from being made, and will the next time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsProblem {
    /// Nobody who is trusted here has issued the certificate.
    #[error(
        "nobody who is trusted here has issued its certificate; name a file with the certificate of its issuer with --ca \
         (ROPEWALK_CA)"
    )]
    Issuer,
    /// The certificate is another host's.
    #[error("its certificate is for another name ({0}); use an address with a name that stands in the certificate")]
    Name(String),
    /// The certificate is wrong in another way.
    #[error("its certificate is not accepted ({0}); docs/security.md says how to make one")]
    Certificate(String),
    /// No TLS is spoken there.
    #[error("what listens there does not speak TLS ({0}); if it serves without, its address begins with http://")]
    Plain(String),
}

/// Why a coordinator and its caller do not come together: one of them cannot show who it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// There is somebody, but not one that can be trusted, or to whom TLS can be spoken.
    #[error("cannot connect to {url}: {problem}")]
    Tls {
        /// The address.
        url: String,
        /// What is wrong.
        problem: TlsProblem,
    },
    /// The coordinator lets in only who knows its token.
    #[error(
        "the coordinator at {url} refuses access: {reason}; name the file that holds its token with --token-file \
         (ROPEWALK_TOKEN_FILE)"
    )]
    Denied {
        /// The address.
        url: String,
        /// What it said.
        reason: String,
    },
}

// === impl Bearer ===

impl Bearer {
    /// Of this token.
    pub fn of(token: Option<&Token>) -> Self {
        Self(token.and_then(|token| {
            // Never fails: what a token may hold, a header may.
            let mut value: MetadataValue<Ascii> = format!("Bearer {}", token.secret()).parse().ok()?;
            // Kept out of what is logged, and of the compression of headers.
            value.set_sensitive(true);
            Some(value)
        }))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// The address of a coordinator, with the `http://` that may be left out.
pub fn with_scheme(url: &str) -> String {
    if url.contains("://") { url.to_owned() } else { format!("http://{url}") }
}

/// The endpoint of a coordinator; `http://` may be left out.
///
/// # Errors
/// What is wrong with the address, or with the certificates to trust.
pub fn endpoint(url: &str, access: &Access) -> Result<Endpoint, String> {
    let endpoint = Endpoint::from_shared(with_scheme(url)).map_err(|error| root_cause(&error))?;
    match endpoint.uri().scheme_str() {
        Some("http") => Ok(endpoint),
        Some("https") => {
            let trusted = ClientTlsConfig::new();
            let trusted = match &access.roots {
                Some(pem) => trusted.ca_certificate(Certificate::from_pem(pem)),
                None => trusted.with_native_roots(),
            };
            endpoint.tls_config(trusted).map_err(|error| {
                format!(
                    "no certificates to trust ({}); name a file with some with --ca (ROPEWALK_CA)",
                    root_cause(&error)
                )
            })
        }
        Some(scheme) => Err(format!("{scheme}:// is not supported, http:// and https:// are")),
        None => Err("it has no scheme".to_owned()),
    }
}

/// Checks that these are certificates in PEM, at least one.
///
/// # Errors
/// What is wrong with them.
pub fn trusted(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err("it holds no certificate in PEM".to_owned()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("it is no PEM file ({error})")),
    }
}

/// What is wrong with TLS, if that is why a connection was not made.
pub fn tls_problem(error: &(dyn Error + 'static)) -> Option<TlsProblem> {
    use rustls::Error as Tls;
    match causes(error).find_map(of_tls)? {
        Tls::InvalidCertificate(CertificateError::UnknownIssuer) => Some(TlsProblem::Issuer),
        Tls::InvalidCertificate(
            error @ (CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }),
        ) => Some(TlsProblem::Name(error.to_string())),
        Tls::InvalidCertificate(error) => Some(TlsProblem::Certificate(error.to_string())),
        error @ Tls::InvalidMessage(_) => Some(TlsProblem::Plain(error.to_string())),
        _ => None,
    }
}

/// The innermost error, which names the cause ("connection refused") rather than the layer ("transport error").
pub fn root_cause(error: &(dyn Error + 'static)) -> String {
    causes(error).last().unwrap_or(error).to_string()
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| <dyn Error>::source(*error))
}

/// An error of TLS, which comes wrapped in one of I/O that does not name it as its source.
fn of_tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let wrapped = || error.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref();
    error.downcast_ref().or_else(wrapped)
}
