//! Who may call, and what connections are encrypted with: the options of `ropewalk serve` about that.

use crate::cli::access::read_token;
use crate::cli::failure::{Failure, OrFail as _};
#[cfg(feature = "local")]
use crate::driver::OwnAddress;
use crate::service::Security;
use crate::service::tls::Tls;
use clap::Args;
use std::path::PathBuf;

/// What protects a coordinator.
#[derive(Args, Debug)]
#[command(next_help_heading = "Security")]
pub struct SecurityArgs {
    /// Accept only calls with the token in this file: one line of 16 to 4,096 printable characters, which clients and
    /// workers name with the same option; health checks need none
    #[arg(long, env = "ROPEWALK_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Encrypt connections: PEM file with the certificate, and after it those that lead to its issuer
    #[arg(long, env = "ROPEWALK_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// PEM file with the private key of the certificate
    #[arg(long, env = "ROPEWALK_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Address under which the processes that carry out plans reach this coordinator; with TLS one with a name of the
    /// certificate, such as https://HOST. A port that is left out is that of --listen [default with http: the address of --listen]
    #[cfg(feature = "local")]
    #[arg(long, env = "ROPEWALK_URL", value_name = "URL", requires = "plan_root")]
    url: Option<String>,

    /// PEM file with the certificates that they trust [default: those of --tls-cert where they vouch for themselves, else
    /// the system's]
    #[cfg(feature = "local")]
    #[arg(long, env = "ROPEWALK_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
}

// === impl SecurityArgs ===

impl SecurityArgs {
    /// Reads the token, the certificate and its key.
    pub fn read(&self) -> Result<Security, Failure> {
        let token = self.token_file.as_deref().map(read_token).transpose()?;
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => Some(Tls::read(certificate, key).or_input()?),
            _ => None,
        };
        Ok(Security { token, tls })
    }

    /// How the processes that carry out plans reach this coordinator.
    #[cfg(feature = "local")]
    pub fn own_address(&self) -> Result<OwnAddress, Failure> {
        use anyhow::Context as _;
        let trusted = match (&self.tls_cert, &self.url) {
            (Some(certificate), Some(url)) => trusted(certificate, self.ca.as_deref(), url)?,
            (Some(_), None) => {
                return Err(Failure::input_message(
                    "--plan-root with --tls-cert needs --url, for example https://HOST: what carries out a plan connects to \
                     this coordinator under a name that stands in the certificate",
                ));
            }
            (None, Some(url)) if url.starts_with("https://") => {
                return Err(Failure::input_message(format!(
                    "--url {url}: this coordinator serves without TLS; name its certificate with --tls-cert and --tls-key, or \
                     write http://"
                )));
            }
            (None, Some(url)) => {
                let checked = ropewalk_shared::wire::connection::endpoint(url, &Default::default());
                checked.map_err(|reason| Failure::input_message(format!("--url {url} is no address: {reason}")))?;
                None
            }
            (None, None) => None,
        };
        let named = [("ROPEWALK_TOKEN_FILE", self.token_file.clone()), ("ROPEWALK_CA", trusted)];
        let given = named.into_iter().filter_map(|(name, path)| Some((name, path?)));
        let absolute = given.map(|(name, path)| std::path::absolute(path).map(|path| (name, path)));
        let environment = absolute.collect::<Result<_, _>>().context("cannot tell the current folder").or_work()?;
        Ok(OwnAddress { url: self.url.clone(), environment })
    }
}

/// The file with the certificates by which the coordinator's own clients know it; `None` for the system's.
#[cfg(feature = "local")]
fn trusted(certificate: &std::path::Path, ca: Option<&std::path::Path>, url: &str) -> Result<Option<PathBuf>, Failure> {
    use crate::service::tls::{Vouched, read_certificates, vouched};
    let host = url.strip_prefix("https://").map(|rest| rest.split('/').next().unwrap_or(rest));
    let host = host.and_then(|authority| authority.parse::<tonic::codegen::http::uri::Authority>().ok());
    let Some(host) = host else {
        let message = format!("--url {url}: with TLS it is of the form https://HOST or https://HOST:PORT");
        return Err(Failure::input_message(message));
    };
    let host = host.host().trim_start_matches('[').trim_end_matches(']');
    let (_, chain) = read_certificates("--tls-cert", certificate).or_input()?;
    let roots = match ca {
        Some(ca) => read_certificates("--ca", ca).or_input()?.1,
        None => chain.clone(),
    };
    match (vouched(&chain, roots, host), ca) {
        (Vouched::Yes, ca) => Ok(Some(ca.unwrap_or(certificate).to_owned())),
        (Vouched::OtherName(reason), _) => Err(Failure::input_message(format!(
            "--tls-cert {} is not a certificate for --url {url}: {reason}; name the coordinator as the certificate does",
            certificate.display()
        ))),
        // Issued by somebody whom the system may know.
        (Vouched::No(_), None) => Ok(None),
        (Vouched::No(reason), Some(ca)) => Err(Failure::input_message(format!(
            "--ca {} does not vouch for --tls-cert {}: {reason}",
            ca.display(),
            certificate.display()
        ))),
    }
}
