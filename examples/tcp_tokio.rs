//! An echo server and its clients on tokio, each connection with its own stack: `tcp_tokio 7 10.77.0.1`
//! serves port 7 of our address; `tcp_tokio 10.77.0.2:7 100` says a hundred things to a server at once,
//! each over a connection of its own.
//!
//! In a lab: `tcp_tokio 7 10.77.0.1 &`, and `echo hello | $PLUMB_PEER nc -N 10.77.0.1 7`.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use plumb_net::tokio::{TcpListener, TcpStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, split};
use tokio::task::{LocalSet, spawn_local};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let (first, second) = (words.next(), words.next());
    match (first.as_deref().map(str::parse::<u16>), first, second) {
        (Some(Ok(port)), _, Some(address)) => {
            serve(SocketAddr::new(address.parse::<IpAddr>()?, port)).await?
        }
        (_, Some(server), clients) => {
            let clients = clients.map_or(Ok(1), |count| count.parse::<usize>())?;
            let server: SocketAddr = server.parse()?;
            let answered = LocalSet::new().run_until(ask_all(server, clients)).await?;
            writeln!(io::stdout(), "{answered} of {clients} were answered as they spoke")?;
        }
        _ => return Err("usage: tcp_tokio PORT ADDRESS, or tcp_tokio HOST:PORT [CLIENTS]".into()),
    }
    Ok(())
}

async fn serve(at: SocketAddr) -> std::io::Result<()> {
    let listener = TcpListener::bind(at).await?;
    let accept = async {
        loop {
            let (stream, _) = listener.accept().await?;
            spawn_local(async move {
                let (mut from, mut to) = split(stream);
                // What goes wrong with one client is its own affair.
                let _ = copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    };
    LocalSet::new().run_until(accept).await
}

async fn ask_all(server: SocketAddr, clients: usize) -> std::io::Result<usize> {
    let all: Vec<_> = (0..clients).map(|number| spawn_local(ask(server, number))).collect();
    let mut answered = 0;
    for client in all {
        answered += usize::from(client.await??);
    }
    Ok(answered)
}

async fn ask(server: SocketAddr, number: usize) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(server).await?;
    let said = format!("client {number} says hello");
    stream.write_all(said.as_bytes()).await?;
    stream.shutdown().await?;
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await?;
    stream.finish(Duration::from_secs(10))?;
    Ok(heard == said)
}
