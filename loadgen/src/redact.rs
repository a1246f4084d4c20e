//! What a report leaves out: what would let its reader in.
//!
//! Knows: where secrets stand in a URL and in a command line, and what a token looks like. Refuses
//! to know: options, reports.
//!
//! ```text
//!   ws://a/room?token=s3cret&v=1   ->  ws://a/room?token=…&v=…
//!   -H 'Cookie: session=s3cret'    ->  -H 'Cookie: …'
//! ```
//!
//! Names stay, so that a reader sees that something was sent. Of a URL every value of the query
//! goes: nobody can tell a number of a room from a key.

/// What stands for something that was left out.
const LEFT_OUT: &str = "…";

/// A header whose name has one of these in it is a secret's.
const SECRET_NAMES: [&str; 10] = [
    "auth",
    "cookie",
    "credential",
    "jwt",
    "key",
    "password",
    "secret",
    "session",
    "signature",
    "token",
];

/// Letters and digits in a row that no word has: from here on they are taken for a token when
/// there are small ones, capitals and digits among them.
const TOKEN_CHARS: usize = 20;

/// Hexadecimal digits in a row from which on they are taken for one.
const HEX_CHARS: usize = 32;

/// A URL without what lets somebody in: values of its query, a user's name and password, and what
/// looks like a token in its path.
#[must_use]
pub fn url(text: &str) -> String {
    let (head, query) = match text.split_once('?') {
        Some((head, query)) => (head, Some(query)),
        None => (text, None),
    };
    let mut shown = String::new();
    let path = match head.split_once("://") {
        Some((scheme, rest)) => {
            shown.push_str(scheme);
            shown.push_str("://");
            let end = rest.find('/').unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            match authority.rsplit_once('@') {
                Some((_, host)) => {
                    shown.push_str(LEFT_OUT);
                    shown.push('@');
                    shown.push_str(host);
                }
                None => shown.push_str(authority),
            }
            path
        }
        None => head,
    };
    shown.push_str(&tokens(path));
    if let Some(query) = query {
        let pairs = query.split('&').map(|pair| match pair.split_once('=') {
            Some((name, _)) => format!("{}={LEFT_OUT}", tokens(name)),
            None if pair.is_empty() => String::new(),
            None => LEFT_OUT.to_owned(),
        });
        shown.push('?');
        shown.push_str(&pairs.collect::<Vec<_>>().join("&"));
    }
    shown
}

/// A header without its value, if that is a secret's.
#[must_use]
pub fn header(text: &str) -> String {
    let Some((name, value)) = text.split_once(':') else {
        // One without a colon is refused, and may be a secret all the same.
        return match text.split_once('=') {
            Some((name, _)) if is_secret(name) => format!("{name}={LEFT_OUT}"),
            _ => tokens(text),
        };
    };
    if is_secret(name) {
        return format!("{name}: {LEFT_OUT}");
    }
    format!("{name}:{}", tokens(value))
}

/// A command line, word by word, without what lets somebody in.
#[must_use]
pub fn command(words: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut before = String::new();
    let mut shown = Vec::new();
    for text in words {
        let (option, value) = match text.split_once('=') {
            Some((option, value)) if option.starts_with("--") => (format!("{option}="), value),
            _ => (String::new(), text.as_str()),
        };
        let lower = value.to_ascii_lowercase();
        let named = if option.is_empty() { &before } else { &option };
        let word = if lower.starts_with("ws") && (lower.contains("://") || lower.contains("+unix:"))
        {
            url(value)
        } else if named.starts_with("--header") || is_short_header(named) || is_attached(value) {
            header(value)
        } else if named.starts_with("--subprotocol") {
            tokens(value)
        } else {
            value.to_owned()
        };
        shown.push(format!("{option}{word}"));
        before = text;
    }
    shown
}

/// `-H`, or several letters of which it is the last.
fn is_short_header(word: &str) -> bool {
    word.starts_with('-') && !word.starts_with("--") && word.ends_with('H')
}

/// `-HName: value`, perhaps behind other letters.
fn is_attached(word: &str) -> bool {
    word.starts_with('-') && !word.starts_with("--") && word.contains('H') && word.contains(':')
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_NAMES.iter().any(|secret| name.contains(secret))
}

/// A text of a message's without what looks like a token.
#[must_use]
pub fn text(text: &str) -> String {
    tokens(text)
}

/// A text in which whatever looks like a token is left out.
fn tokens(text: &str) -> String {
    let mut shown = String::new();
    let mut run = String::new();
    let end = |run: &mut String, shown: &mut String| {
        shown.push_str(if is_token(run) { LEFT_OUT } else { run });
        run.clear();
    };
    for letter in text.chars() {
        if letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '+') {
            run.push(letter);
        } else {
            end(&mut run, &mut shown);
            shown.push(letter);
        }
    }
    end(&mut run, &mut shown);
    shown
}

fn is_token(run: &str) -> bool {
    let has = |kind: fn(&char) -> bool| run.chars().any(|letter| kind(&letter));
    let is_hex = run.len() >= HEX_CHARS && run.chars().all(|letter| letter.is_ascii_hexdigit());
    let is_mixed = run.len() >= TOKEN_CHARS
        && has(char::is_ascii_lowercase)
        && has(char::is_ascii_uppercase)
        && has(char::is_ascii_digit);
    // The head of a JSON Web Token: `{"` in base64.
    is_hex || is_mixed || (run.starts_with("eyJ") && run.len() >= TOKEN_CHARS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dBjftJeZ4CVPmB92K27uhbUJU1p1r";

    #[test]
    fn urls_keep_their_names_and_lose_their_values() {
        for (given, shown) in [
            ("ws://a:1/", "ws://a:1/"),
            ("ws://a/b?token=s3cret", "ws://a/b?token=…"),
            ("ws://a/b?x=1&token=a=b&", "ws://a/b?x=…&token=…&"),
            ("wss://a?s3cret", "wss://a?…"),
            ("ws://me:s3cret@a/b", "ws://…@a/b"),
            (
                "ws://a/room-2026-03-01-general-chat/{}",
                "ws://a/room-2026-03-01-general-chat/{}",
            ),
            ("ws://a/0123456789abcdef0123456789abcdef/b", "ws://a/…/b"),
            (
                "ws://a/3f2b8a14-1c7d-4e0b-9d53-0a6f1e2d3c4b",
                "ws://a/3f2b8a14-1c7d-4e0b-9d53-0a6f1e2d3c4b",
            ),
            (
                "ws+unix:/run/a.sock:/b?key=1",
                "ws+unix:/run/a.sock:/b?key=…",
            ),
        ] {
            assert_eq!(url(given), shown);
        }
    }

    #[test]
    fn headers_of_secrets_keep_their_names() {
        for (given, shown) in [
            ("Authorization: Bearer x", "Authorization: …"),
            ("cookie:a=b; c=d", "cookie: …"),
            ("Proxy-Authorization: Basic eDp5", "Proxy-Authorization: …"),
            ("X-Api-Key: 1", "X-Api-Key: …"),
            ("X-Access-Token: 1", "X-Access-Token: …"),
            ("Accept-Language: de, en", "Accept-Language: de, en"),
            ("Cookie=s3cret", "Cookie=…"),
        ] {
            assert_eq!(header(given), shown);
        }
        assert!(!header(&format!("X-Whatever: {JWT}")).contains("dBjft"));
    }

    #[test]
    fn no_way_to_write_a_command_lets_a_secret_through() {
        let ways: [&[&str]; 9] = [
            &["loadgen", "echo", "ws://a/?token=s3cret"],
            &["loadgen", "-H", "Cookie: s3cret"],
            &["loadgen", "-HCookie: s3cret"],
            &["loadgen", "-qH", "Authorization: s3cret"],
            &["loadgen", "--header", "X-Token: s3cret"],
            &["loadgen", "--header=X-Token: s3cret"],
            &["loadgen", "--header=Cookie:s3cret"],
            &["loadgen", "WS://me:s3cret@a/"],
            &["loadgen", "-qHcookie:s3cret"],
        ];
        for way in ways {
            let shown = command(way.iter().map(ToString::to_string));
            assert_eq!(shown.len(), way.len());
            assert!(!shown.concat().contains("s3cret"), "{shown:?}");
            assert!(shown.concat().contains(LEFT_OUT), "{shown:?}");
        }
        let bearer = format!("base64url.bearer.authorization.k8s.io.{JWT}");
        let shown = command(["--subprotocol".to_owned(), bearer]);
        assert!(shown[1].starts_with("base64url.bearer."), "{shown:?}");
        assert!(!shown[1].contains("dBjft"), "{shown:?}");
        let plain = [
            "loadgen",
            "echo",
            "ws://a/",
            "-c",
            "4",
            "--json",
            "/tmp/a:b.json",
        ];
        let plain: Vec<String> = plain.map(str::to_owned).to_vec();
        assert_eq!(command(plain.clone()), plain);
    }
}
