//! `plumb nc`: standard input and output over a flow.

mod tcp;
mod udp;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use plumb_net::{Host, Options};

use crate::cli;

/// Talks until both sides have said all.
pub fn run(arguments: &cli::Nc) -> Result<ExitCode> {
    let place = place(&arguments.place, arguments.listen)?;
    let host = Host::connect(&arguments.socket.socket)?;
    let mut options = Options::new().host(&host);
    if let Some(contract) = arguments.share.contract()? {
        options = options.contract(contract);
    }
    if arguments.udp {
        let wait = Duration::from_secs(arguments.wait.into());
        return udp::run(&options, place, arguments.listen, wait);
    }
    tcp::run(&options, place, arguments.listen)
}

/// `HOST PORT`, `HOST:PORT`, or, to listen, `PORT`.
fn place(words: &[String], listen: bool) -> Result<SocketAddr> {
    let port = |text: &str| {
        text.parse::<u16>().with_context(|| format!("`{text}` is no port: give 0 to 65535"))
    };
    match words {
        [host, number] => {
            let address: IpAddr = host
                .parse()
                .with_context(|| format!("`{host}` is no address: give one like 10.77.0.2"))?;
            Ok(SocketAddr::new(address, port(number)?))
        }
        [one] if listen && one.parse::<SocketAddr>().is_err() => {
            Ok(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port(one)?))
        }
        [one] => one
            .parse()
            .with_context(|| format!("`{one}` has no port: give HOST PORT, as in 10.77.0.2 5000")),
        _ => bail!("give HOST PORT"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str], listen: bool) -> Result<SocketAddr> {
        place(&words.iter().map(ToString::to_string).collect::<Vec<_>>(), listen)
    }

    #[test]
    fn a_place_is_written_as_netcat_users_write_it() {
        let there: SocketAddr = "10.77.0.2:5000".parse().unwrap();
        assert_eq!(parsed(&["10.77.0.2", "5000"], false).unwrap(), there);
        assert_eq!(parsed(&["10.77.0.2:5000"], false).unwrap(), there);
        assert_eq!(parsed(&["10.77.0.2:5000"], true).unwrap(), there);
        assert_eq!(parsed(&["5000"], true).unwrap(), "0.0.0.0:5000".parse().unwrap());
        for (words, wrong) in [
            (&["5000"][..], "has no port"),
            (&["10.77.0.2", "65536"], "no port"),
            (&["peer", "1"], "no address"),
        ] {
            assert!(parsed(words, false).unwrap_err().to_string().contains(wrong), "{words:?}");
        }
    }
}
