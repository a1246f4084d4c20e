//! The exchange that the article on WebSocket shows.

/// The request of the article, as its reader would have sent it.
pub const ARTICLES_REQUEST: &str = "GET ws://echo.websocket.org/?encoding=text HTTP/1.1\r\n\
    Origin: http://websocket.org\r\n\
    Cookie: __utma=99as\r\n\
    Connection: Upgrade\r\n\
    Host: echo.websocket.org\r\n\
    Sec-WebSocket-Key: uRovscZjNol/umbTt5uKmw==\r\n\
    Upgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

/// And its response.
const ARTICLES_RESPONSE: &str = "HTTP/1.1 101 WebSocket Protocol Handshake\r\n\
    Date: Fri, 10 Feb 2012 17:38:18 GMT\r\n\
    Connection: Upgrade\r\n\
    Server: Kaazing Gateway\r\n\
    Upgrade: WebSocket\r\n\
    Access-Control-Allow-Origin: http://websocket.org\r\n\
    Access-Control-Allow-Credentials: true\r\n\
    Sec-WebSocket-Accept: rLHCkw/SKsO9GAH/ZSFhBATDKrU=\r\n\
    Access-Control-Allow-Headers: content-type\r\n\r\n";

/// The response is the article's, byte for byte but for the date, which is one.
#[track_caller]
pub fn expect_articles_response(answer: &str) {
    let date = |text: &str| {
        let at = text.find("Date: ").expect("a date") + "Date: ".len();
        let end = at + text[at..].find('\r').expect("the end of a line");
        (at, end)
    };
    let (at, end) = date(answer);
    let is_date = httpdate::parse_http_date(&answer[at..end]).is_ok();
    assert!(is_date, "{answer}");
    let (article_at, article_end) = date(ARTICLES_RESPONSE);
    let written = [
        &answer[..at],
        &ARTICLES_RESPONSE[article_at..article_end],
        &answer[end..],
    ];
    assert_eq!(written.concat(), ARTICLES_RESPONSE);
}
