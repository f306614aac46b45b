//! A server of one's own making: it keeps what it received and answers as the test says.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use outbound::Resolver;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// What a stub does with a request.
pub(crate) enum Answer {
    /// Status, where a redirect leads, body.
    Give(u16, Option<String>, String),
    /// A status 500 whose body never ends.
    Endless,
    /// Nothing, with the connection left open.
    Silence,
}

impl Answer {
    pub(crate) fn status(status: u16) -> Self {
        Self::Give(status, None, String::new())
    }

    pub(crate) fn body(status: u16, body: &str) -> Self {
        Self::Give(status, None, body.to_owned())
    }

    pub(crate) fn redirect(status: u16, to: &str) -> Self {
        Self::Give(status, Some(to.to_owned()), String::new())
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Received {
    head: String,
    pub(crate) body: String,
}

impl Received {
    /// Method and target.
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap().strip_suffix(" HTTP/1.1").unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

pub(crate) struct Stub {
    pub(crate) port: u16,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Stub {
    /// Answers each request by its target.
    pub(crate) async fn serve(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let received: Arc<Mutex<Vec<Received>>> = Arc::default();
        let (kept, answer) = (Arc::clone(&received), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(exchange(stream, Arc::clone(&kept), Arc::clone(&answer)));
            }
        });
        Self { port, received }
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

async fn exchange(
    mut stream: TcpStream,
    kept: Arc<Mutex<Vec<Received>>>,
    answer: Arc<impl Fn(&str) -> Answer>,
) {
    let Some(request) = read(&mut stream).await else { return };
    let target = request.line().split_once(' ').unwrap().1.to_owned();
    kept.lock().unwrap().push(request);
    match answer(&target) {
        Answer::Give(status, location, body) => {
            let location = location.map(|to| format!("location: {to}\r\n")).unwrap_or_default();
            let length = body.len();
            let response = format!(
                "HTTP/1.1 {status} x\r\n{location}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            // A client that has read enough hangs up.
            let _ = stream.write_all(response.as_bytes()).await;
        }
        Answer::Endless => {
            let mut next = stream.write_all(b"HTTP/1.1 500 x\r\nconnection: close\r\n\r\n").await;
            while next.is_ok() {
                next = stream.write_all(&[b'x'; 1024]).await;
            }
        }
        Answer::Silence => {
            let _ = stream.read_u8().await;
        }
    }
}

/// `None` for a connection without a request, such as a TLS client's.
async fn read(stream: &mut TcpStream) -> Option<Received> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let text = std::str::from_utf8(&bytes).ok()?;
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let request = Received { head: head.to_owned(), body: body.to_owned() };
        if request.header("content-length").unwrap_or("0").parse() == Ok(body.len()) {
            return Some(request);
        }
    }
}

/// A port that nobody listens on.
pub(crate) async fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().port()
}

/// Every name stands for the loopback address.
pub(crate) fn all_names_are_local() -> Resolver {
    Resolver::new(|_| async { Ok(vec![Ipv4Addr::LOCALHOST.into()]) })
}
