//! Where a request carries its key: `Authorization: Bearer`, `Authorization: Key` (fal's form), or the password of HTTP
//! Basic, which clients of AUTOMATIC1111 send; and where a browser that has logged in carries its session, a cookie. A
//! token of the Hugging Face Hub comes as `Bearer`, as its own clients send it.

use axum::http::{HeaderMap, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::key::Token;
use domain::session::SessionToken;

use super::hub::HubToken;
use crate::problem::{Problem, Result};

/// Name of the cookie. Over TLS it has the prefix that binds it to this host (RFC 6265bis, section 4.1.3.2).
pub(crate) const COOKIE: &str = "pyrograph";
pub(crate) const SECURE_COOKIE: &str = "__Host-pyrograph";

/// How a request proves who sends it.
pub(crate) enum Proof {
    /// A key, or the reason why it is none.
    Key(Result<Token>),
    Hub(HubToken),
    Session(SessionToken),
}

/// The proof that a request carries. A key counts before a session.
pub(crate) fn proof(headers: &HeaderMap) -> Option<Proof> {
    authorization(headers).or_else(|| session(headers).map(Proof::Session))
}

/// Whether a program set the header for this request, as no page of another origin can make a browser do by itself.
pub(crate) fn is_explicit(headers: &HeaderMap) -> bool {
    headers.get(header::AUTHORIZATION).is_some_and(|value| {
        let scheme = value.as_bytes().split(|byte| *byte == b' ').next().unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"bearer") || scheme.eq_ignore_ascii_case(b"key")
    })
}

/// Whether a session proves who sends the request.
pub(crate) fn is_session(headers: &HeaderMap) -> bool {
    matches!(proof(headers), Some(Proof::Session(_)))
}

/// The session of a request. A cookie that is none of ours is no session.
pub(crate) fn session(headers: &HeaderMap) -> Option<SessionToken> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut ours = pairs.filter(|(name, _)| [SECURE_COOKIE, COOKIE].contains(name));
    ours.find_map(|(_, value)| value.parse().ok())
}

/// The key or token of a request: `None` if it carries none, and a problem for anything else.
fn authorization(headers: &HeaderMap) -> Option<Proof> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return Some(Proof::Key(Err(refused("The request has several."))));
    }
    let Ok(value) = value.to_str() else { return Some(Proof::Key(Err(refused("It is not text.")))) };
    let (scheme, rest) = value.trim().split_once(' ').unwrap_or((value, ""));
    let scheme = scheme.to_ascii_lowercase();
    let hub = (scheme == "bearer").then(|| HubToken::read(rest.trim())).flatten();
    Some(hub.map_or_else(|| Proof::Key(read(&scheme, rest)), Proof::Hub))
}

fn read(scheme: &str, rest: &str) -> Result<Token> {
    let text = match scheme {
        "bearer" | "key" => rest.trim().to_owned(),
        "basic" => password(rest.trim()).ok_or_else(|| refused("The credentials of `Basic` are not base64."))?,
        _ => return Err(refused("Send the key as `Bearer`, `Key` or the password of `Basic`.")),
    };
    text.parse().map_err(|not| refused(&format!("The key is not one of Pyrograph: {not}.")))
}

fn password(encoded: &str) -> Option<String> {
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    text.split_once(':').map(|(_, password)| password.to_owned())
}

fn refused(message: &str) -> Problem {
    Problem::field(StatusCode::UNAUTHORIZED, "Authorization", message)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const KEY: &str = "pyro_0193796a8e5a7c3b9d1f0e2a4c6b8d9f_\
                       00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn proof_of(values: &[&str]) -> Option<Proof> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        proof(&headers)
    }

    fn of(values: &[&str]) -> Option<Result<Token>> {
        proof_of(values).map(|proof| match proof {
            Proof::Key(token) => token,
            Proof::Hub(_) | Proof::Session(_) => panic!("{values:?} is no key"),
        })
    }

    #[test]
    fn a_token_of_the_hub_comes_as_bearer() {
        for value in ["Bearer hf_s3cret", "bearer  hf_s3cret "] {
            assert!(matches!(proof_of(&[value]), Some(Proof::Hub(_))), "{value}");
        }
    }

    #[test]
    fn a_key_is_found_in_each_form() {
        let basic = |text: String| format!("Basic {}", STANDARD.encode(text));
        for value in [
            format!("Bearer {KEY}"),
            format!("bearer  {KEY} "),
            format!("Key {KEY}"),
            basic(format!("x:{KEY}")),
            basic(format!(":{KEY}")),
        ] {
            let token = of(&[&value]).expect(&value).expect(&value);
            assert_eq!(token.reveal(), KEY, "{value}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_repeated() {
        assert!(of(&[]).is_none());
        let twice = format!("Bearer {KEY}");
        for values in [
            &[""][..],
            &["Bearer"],
            &["Bearer hf_"],
            &["Bearer hf_s3cret/x"],
            &["Key hf_s3cret"],
            &["Digest s3cret"],
            &["Basic s3cret"],
            &["Basic czNjcmV0"],
            &[KEY],
            &[&twice, &twice],
        ] {
            let problem = of(values).unwrap().unwrap_err();
            assert_eq!(problem.status, 401, "{values:?}");
            assert!(!problem.detail.contains("s3cret") && !problem.detail.contains("0011"), "{}", problem.detail);
        }
    }
}
