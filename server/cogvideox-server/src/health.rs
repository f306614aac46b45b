//! `cogvideox-server health`: asks the server that this configuration describes whether it is ready. For container
//! engines and scripts, as a small image holds no other HTTP client. Calls this machine only; needs no key.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use axum::body::Body;
use hyper::{Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

use crate::config::Config;

/// Less than the 5 s that the images' health checks may take.
const PATIENCE: Duration = Duration::from_secs(4);
const ANSWER_BYTES_MAX: usize = 1 << 16;

/// What `/readyz` says, as far as people need it here.
#[derive(Deserialize)]
struct Readiness {
    status: String,
    reasons: Vec<String>,
}

/// Asks, and prints one line.
///
/// # Errors
/// No server, one that does not answer in time, or one that is not ready; with its reasons.
pub(crate) async fn run(config: &Config, out: &mut impl Write) -> anyhow::Result<()> {
    let address = own_address(config)?;
    let answer = tokio::time::timeout(PATIENCE, ask(address)).await;
    let (status, readiness) =
        answer.map_err(|_| anyhow!("{address}: no answer in {} s", PATIENCE.as_secs()))??;
    let line = [vec![readiness.status], readiness.reasons].concat().join(": ");
    if !status.is_success() {
        bail!("{address}: {line}");
    }
    writeln!(out, "{line}")?;
    Ok(())
}

/// Where a server that listens as configured is reached from here.
fn own_address(config: &Config) -> anyhow::Result<SocketAddr> {
    let port = config.server.port;
    if port == 0 {
        bail!(
            "server.port: expected the port that the server listens on, found 0, which is another at each start"
        );
    }
    let address = match config.server.address {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    Ok(SocketAddr::new(address, port))
}

async fn ask(address: SocketAddr) -> anyhow::Result<(StatusCode, Readiness)> {
    let stream =
        TcpStream::connect(address).await.with_context(|| format!("{address}: no server answers"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the sender; what is wrong with it the request tells.
    tokio::spawn(connection);
    let request = Request::get("/readyz").header(header::HOST, address.to_string()).body(Body::empty())?;
    let response = sender.send_request(request).await.with_context(|| format!("{address}: no answer"))?;
    let status = response.status();
    let body = axum::body::to_bytes(Body::new(response.into_body()), ANSWER_BYTES_MAX).await?;
    let readiness = serde_json::from_slice(&body)
        .with_context(|| format!("{address}: expected a CogVideoX server's /readyz, found something else"))?;
    Ok((status, readiness))
}
