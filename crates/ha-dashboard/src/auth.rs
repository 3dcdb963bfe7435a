//! Who may look: basic and bearer authentication (RFC 7617, RFC 6750) against a short list.

use std::hint::black_box;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Is the logins that are let through.
#[derive(Clone)]
pub struct Credentials {
    /// What follows `Basic` and `Bearer`, decoded.
    basic: Vec<Vec<u8>>,
    bearer: Vec<Vec<u8>>,
}

/// Never shows a password.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Credentials({} basic, {} bearer)", self.basic.len(), self.bearer.len())
    }
}

/// Says why a list of logins was refused. Never repeats any of it: it holds passwords.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// A line is not understood.
    #[error("line {0} of the logins is not understood: expected \"basic USER:PASSWORD\" or \"bearer TOKEN\"")]
    Line(usize),
    /// There is none.
    #[error("there is no login: expected lines \"basic USER:PASSWORD\" or \"bearer TOKEN\"")]
    Empty,
}

impl Credentials {
    /// Reads lines `basic USER:PASSWORD` and `bearer TOKEN`; empty ones and those that begin with `#` say nothing.
    pub fn parse(text: &str) -> Result<Self, CredentialsError> {
        let mut credentials = Self { basic: Vec::new(), bearer: Vec::new() };
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.split_once(' ').map(|(kind, secret)| (kind, secret.trim_start())) {
                // an empty user or password is a mistake, not a wish
                Some(("basic", pair)) if pair.find(':').is_some_and(|at| at > 0 && at + 1 < pair.len()) => {
                    credentials.basic.push(pair.as_bytes().to_vec());
                }
                Some(("bearer", token)) if !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()) => {
                    credentials.bearer.push(token.as_bytes().to_vec());
                }
                _ => return Err(CredentialsError::Line(index + 1)),
            }
        }
        if credentials.basic.is_empty() && credentials.bearer.is_empty() {
            return Err(CredentialsError::Empty);
        }
        Ok(credentials)
    }

    /// Tells whether the value of an `Authorization` header is one of them. Takes as long for any value of a length.
    pub(crate) fn accept(&self, authorization: &[u8]) -> bool {
        let blank = authorization.iter().position(|byte| *byte == b' ').unwrap_or(authorization.len());
        let (scheme, secret) = authorization.split_at(blank);
        let secret = secret.trim_ascii();
        if scheme.eq_ignore_ascii_case(b"bearer") {
            return any_equals(&self.bearer, secret);
        }
        scheme.eq_ignore_ascii_case(b"basic")
            && STANDARD.decode(secret).is_ok_and(|secret| any_equals(&self.basic, &secret))
    }

    /// Returns what a browser is told to ask for.
    pub(crate) fn challenge(&self) -> &'static str {
        if self.basic.is_empty() { "Bearer realm=\"ha-sync\"" } else { "Basic realm=\"ha-sync\", charset=\"UTF-8\"" }
    }
}

fn any_equals(known: &[Vec<u8>], given: &[u8]) -> bool {
    known.iter().fold(false, |found, known| found | equals(known, given))
}

/// Compares without an early end; only the length of `given` shows in the time.
fn equals(known: &[u8], given: &[u8]) -> bool {
    let mut difference = known.len() ^ given.len();
    for (index, byte) in given.iter().enumerate() {
        // past its end the known one is compared with itself: the length has told them apart
        let against = known.get(index).or(known.last()).copied().unwrap_or(0);
        difference |= usize::from(black_box(byte ^ against));
    }
    black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins() {
        let text = "# operators\n\nbasic ann:pass word:1\nbearer t0ken\n basic  bob:ü \n";
        let credentials = Credentials::parse(text).unwrap();
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        for (header, accepted) in [
            (basic("ann:pass word:1"), true),
            (basic("bob:ü"), true),
            (basic("ann:pass word:"), false),
            (basic("ann:pass word:11"), false),
            (basic("ann:"), false),
            (basic(""), false),
            ("basic  ".to_owned() + &STANDARD.encode("bob:ü"), true),
            ("Bearer t0ken".to_owned(), true),
            ("bearer t0ken".to_owned(), true),
            ("Bearer t0ke".to_owned(), false),
            ("Bearer t0kenn".to_owned(), false),
            ("Bearer".to_owned(), false),
            ("Bearer ann:pass word:1".to_owned(), false),
            ("Basic t0ken".to_owned(), false),
            ("Digest x".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(credentials.accept(header.as_bytes()), accepted, "{header}");
        }
        assert_eq!(format!("{credentials:?}"), "Credentials(2 basic, 1 bearer)");
    }

    #[test]
    fn what_is_no_login_is_refused_without_a_word_of_it() {
        for (text, line) in [("basic ann", 1), ("basic :x", 1), ("basic ann:", 1), ("\nann:x", 2), ("bearer a b", 1)] {
            assert_eq!(Credentials::parse(text).unwrap_err(), CredentialsError::Line(line), "{text}");
        }
        assert_eq!(Credentials::parse("# nobody\n").unwrap_err(), CredentialsError::Empty);
    }
}
