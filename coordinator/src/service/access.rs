//! Who may call. The one place through which every call comes, before anything of it is read.

use ropewalk_shared::access::Token;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::header::{AUTHORIZATION, HeaderMap};
use tonic::codegen::http::{Request, Response};
use tower_layer::Layer;

/// Probes have no token: whether the coordinator serves is nobody's secret.
const OPEN: &str = "/grpc.health.v1.Health/";

/// Lets in who brings the token; everybody where there is none.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    token: Option<Token>,
}

/// Services behind a guard.
#[derive(Clone, Debug)]
pub(super) struct Guarded<S> {
    token: Option<Token>,
    services: S,
}

// === impl Guard ===

impl Guard {
    pub fn new(token: Option<Token>) -> Self {
        Self { token }
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, services: S) -> Guarded<S> {
        Guarded { token: self.token.clone(), services }
    }
}

// === impl Guarded ===

impl<S, B> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.services.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let open = request.uri().path().starts_with(OPEN);
        let admitted = match &self.token {
            Some(token) if !open => admit(token, request.headers()),
            _ => Ok(()),
        };
        match admitted {
            Ok(()) => Box::pin(self.services.call(request)),
            Err(reason) => {
                tracing::debug!(path = request.uri().path(), reason, "a call was refused");
                let refusal = Status::unauthenticated(reason).into_http();
                Box::pin(std::future::ready(Ok(refusal)))
            }
        }
    }
}

/// Whether these are the headers of a call with the token, exactly once; if not, why not.
fn admit(token: &Token, headers: &HeaderMap) -> Result<(), &'static str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let presented = match (values.next(), values.next()) {
        (None, _) => return Err("this coordinator asks for a token"),
        (Some(_), Some(_)) => return Err("there are several authorization headers, one is expected"),
        (Some(value), None) => value.as_bytes(),
    };
    let (scheme, rest) = presented.split_at_checked("Bearer ".len()).unwrap_or_default();
    if !scheme.eq_ignore_ascii_case(b"Bearer ") {
        return Err("the authorization header is not of the form \"Bearer TOKEN\"");
    }
    if token.is(rest) { Ok(()) } else { Err("the token is not this coordinator's") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::codegen::http::HeaderValue;

    #[test]
    fn one_header_with_the_token_is_let_in_and_nothing_else() {
        let token = Token::parse(b"0123456789abcdef").unwrap();
        let headers = |values: &[&[u8]]| {
            let values = values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_bytes(value).unwrap()));
            values.fold(HeaderMap::new(), |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            })
        };
        let good = &b"Bearer 0123456789abcdef"[..];
        for one in [good, b"bearer 0123456789abcdef"] {
            assert_eq!(admit(&token, &headers(&[one])), Ok(()));
        }
        let bad: [&[&[u8]]; 12] = [
            &[],
            &[b""],
            &[b"Bearer"],
            &[b"Bearer "],
            &[b"Bearer  0123456789abcdef"],
            &[b"Bearer 0123456789abcdef "],
            &[b"Bearer 0123456789abcdeF"],
            &[b"Basic 0123456789abcdef"],
            &[b"0123456789abcdef"],
            &[b"Bearer \xff\xfe\xfd"],
            &[good, good],
            &[good, b"Bearer x"],
        ];
        for bad in bad {
            let reason = admit(&token, &headers(bad)).unwrap_err();
            assert!(!reason.contains("0123"), "{reason}");
        }
    }
}
