//! A reverse proxy that breaks what passes through it, for scripts.
//!
//! It prints a line when it listens. On SIGTERM or ctrl-c it writes the log and prints totals.
#![forbid(unsafe_code)]

use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use chunkfs_testkit::{FaultKind, FaultProxy, ProxiedRequest, ProxyOptions};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "\
fault-proxy --upstream HOST:PORT [OPTION...]
  --listen ADDRESS:PORT     where to listen [default: a free port of 127.0.0.1]
  --seed NUMBER             what all chance comes from [default: 0]
  --percent NUMBER          how probable each kind of fault is for each request [default: 0]
  --share NUMBER            how probable any fault is for each request, instead of --percent
  --kind NAME=NUMBER        how probable one kind is, after --percent or --share (repeatable)
  --only TEXT               break only requests whose path holds this
  --only-method METHOD      break only requests with this method
  --everything              break all methods, and refuse more than reads of blobs
  --streams COUNT           how many requests are answered at once [default: 256]
  --host HOST[:PORT]        send this Host upstream instead of the client's
  --rewrite FROM=TO         make locations and realms on the host FROM lead to TO (repeatable)
  --hold SECONDS            how long a stall lasts [default: 120]
  --drip BYTES/MILLISECONDS how slow a drip is [default: 100/200]
  --log FILE                write all requests to this file at the end, as lines of JSON";

struct Arguments {
    options: ProxyOptions,
    seed: u64,
    log: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("fault-proxy: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fault-proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let proxy = FaultProxy::start(arguments.options).await?;
    println!("listening on {}, seed {}", proxy.address(), arguments.seed);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let (requests, totals) = (proxy.requests(), proxy.totals());
    proxy.stop().await;
    if let Some(path) = &arguments.log {
        write_log(path, &requests)?;
    }
    println!("{totals}");
    Ok(())
}

fn write_log(path: &Path, requests: &[ProxiedRequest]) -> std::io::Result<()> {
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    for request in requests {
        writeln!(file, "{}", request.to_json())?;
    }
    file.flush()
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut options = ProxyOptions::new("");
    let (mut seed, mut log, mut has_upstream) = (0, None, false);
    while let Some(word) = words.next() {
        if word == "--everything" {
            options = options.with_everything(true);
            continue;
        }
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        options = match word.as_str() {
            "--upstream" => {
                has_upstream = true;
                options.with_upstream(value()?)
            }
            "--listen" => options.with_listen(read(&value()?)?),
            "--seed" => {
                seed = read(&value()?)?;
                options.with_seed(seed)
            }
            "--percent" => options.with_percent(read(&value()?)?),
            "--share" => options.with_share_percent(read(&value()?)?),
            "--kind" => {
                let value = value()?;
                let (kind, percent) = split(&value, '=')?;
                options.with_kind_percent(read::<FaultKind>(kind)?, read(percent)?)
            }
            "--only" => options.with_only_path(value()?),
            "--only-method" => options.with_only_method(value()?),
            "--streams" => options.with_streams_max(read(&value()?)?),
            "--host" => options.with_host(value()?),
            "--rewrite" => {
                let value = value()?;
                let (from, to) = split(&value, '=')?;
                options.with_rewrite(from, to)
            }
            "--hold" => options.with_hold(Duration::from_secs(read(&value()?)?)),
            "--drip" => {
                let value = value()?;
                let (piece_len, pause) = split(&value, '/')?;
                options.with_drip(read(piece_len)?, Duration::from_millis(read(pause)?))
            }
            "--log" => {
                log = Some(value()?.into());
                options
            }
            _ => return Err(format!("{word} is not an option")),
        };
    }
    if !has_upstream {
        return Err("--upstream is missing".to_owned());
    }
    Ok(Arguments { options, seed, log })
}

fn read<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{text}: {error}"))
}

fn split(text: &str, separator: char) -> Result<(&str, &str), String> {
    text.split_once(separator).ok_or_else(|| format!("{text} lacks a {separator}"))
}
