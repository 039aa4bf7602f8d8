//! Explains what the egress guard makes of a URL, without opening a connection.
//!
//! ```text
//! cargo run --release --example check_url -- [--policy FILE.toml] [--json] [URL...]
//! ```
//!
//! Without `--json` it prints every rule that was asked, for each URL of the command line (or of standard input, one a line).
//! Names are asked of the name servers in the file's `[dns]`, or of the system's.
//!
//! With `--json` it reads JSON lines from standard input and answers each with one line. Nothing is asked of DNS: the answers
//! are part of the question, and a name without them does not exist.
//!
//! ```text
//! {"id":"u1","url":"http://127.1/","answers":["93.184.215.14"]}
//! {"id":"u1","allow":false,"reason":"address","to":[]}
//! {"ip":"10.0.0.1"}
//! {"ip":"10.0.0.1","allow":false,"class":"private"}
//! ```
//!
//! `to` is what would be dialled. `reason` is a word of `portcullis::egress::DenialReason`, or `invalid` for what is no target,
//! no address or no question; it is null where the target is allowed. `class` is a word of `portcullis::net::AddressClass`.
//! The exit status is 2 when the policy cannot be used, and 0 otherwise.

#[path = "shared/egress_config.rs"]
pub(crate) mod egress_config;

use std::{
    io::{BufRead as _, Write as _},
    net::IpAddr,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use clap::Parser;
use egress_config::{DnsSection, EgressSection};
use portcullis::{
    ConfigError,
    connect::{ConnectError, GuardedConnector, RecordingDialer},
    egress::{Generation, PolicyHandle},
    net::{Name, Target, classify},
    resolve::{Answers, Resolve, ResolveError, Resolving},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Parser)]
#[command(about = "Explains what the egress guard makes of a URL.")]
struct Args {
    /// The server's configuration file; `[egress]` and `[dns]` are used.
    #[arg(long)]
    policy: Option<PathBuf>,
    /// Reads JSON lines and writes JSON lines.
    #[arg(long)]
    json: bool,
    /// URLs to explain.
    urls: Vec<String>,
}

/// The parts of the server's file that matter here. The others belong to the server.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct File {
    egress: EgressSection,
    dns: DnsSection,
}

/// Answers with what the line says, or asks another resolver, and remembers what came back.
#[derive(Clone, Debug, Default)]
struct Told(Arc<Mutex<Vec<IpAddr>>>, Option<Arc<dyn Resolve>>);

impl Told {
    fn answers(&self) -> Vec<IpAddr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, answers: Vec<IpAddr>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = answers;
    }
}

impl Resolve for Told {
    fn resolve<'a>(&'a self, name: &'a Name) -> Resolving<'a> {
        Box::pin(async move {
            if let Some(dns) = &self.1 {
                let answers = dns.resolve(name).await?;
                self.set(answers.addrs().to_vec());
                return Ok(answers);
            }
            match self.answers() {
                none if none.is_empty() => Err(ResolveError::NoSuchName),
                addrs => Ok(Answers::new(addrs, Duration::ZERO)),
            }
        })
    }
}

/// Policy, resolve step and connector of the server; the dialer only writes down.
pub(crate) struct Checker {
    policy: Arc<Generation>,
    connector: GuardedConnector,
    told: Told,
}

impl Checker {
    pub(crate) fn new(file: &File, ask_dns: bool) -> Result<Self, ConfigError> {
        let policy = PolicyHandle::new(file.egress.builder()?.build()?).load();
        let dns = if ask_dns { Some(Arc::new(file.dns.resolver()?) as Arc<dyn Resolve>) } else { None };
        let told = Told(Arc::default(), dns);
        let connector = GuardedConnector::builder().resolver(told.clone()).dialer(RecordingDialer::default()).build()?;
        Ok(Self { policy, connector, told })
    }

    /// One question, one answer.
    pub(crate) async fn answer_line(&self, line: &str) -> Value {
        let Ok(Value::Object(question)) = serde_json::from_str(line) else {
            return json!({"allow": false, "reason": "invalid", "to": []});
        };
        let mut answer = Map::new();
        if let Some(id) = question.get("id") {
            answer.insert("id".into(), id.clone());
        }
        match (question.get("url"), question.get("ip")) {
            (Some(url), None) => self.answer_url(url, question.get("answers"), &mut answer).await,
            (None, Some(ip)) => self.answer_ip(ip, &mut answer),
            _ => invalid(&mut answer),
        }
        Value::Object(answer)
    }

    async fn answer_url(&self, url: &Value, answers: Option<&Value>, out: &mut Map<String, Value>) {
        let (Some(url), Some(answers)) = (url.as_str(), parse_answers(answers)) else { return invalid(out) };
        self.told.set(answers);
        let Ok(target) = Target::parse(url) else { return invalid(out) };
        let planned = match self.policy.permit(&target) {
            Ok(permit) => self.connector.plan(&permit).await,
            Err(denial) => Err(denial.into()),
        };
        let (reason, to) = match planned {
            Ok(to) => (Value::Null, to.iter().map(ToString::to_string).collect()),
            Err(error) => (reason(&error).into(), Vec::new()),
        };
        out.insert("allow".into(), reason.is_null().into());
        out.insert("reason".into(), reason);
        out.insert("to".into(), to.into());
    }

    fn answer_ip(&self, text: &Value, out: &mut Map<String, Value>) {
        out.insert("ip".into(), text.clone());
        let Some(Ok(ip)) = text.as_str().map(str::parse::<IpAddr>) else {
            out.insert("allow".into(), false.into());
            out.insert("reason".into(), "invalid".into());
            return;
        };
        out.insert("allow".into(), self.policy.policy().judge_ip(ip).is_ok().into());
        out.insert("class".into(), classify(ip).as_str().into());
    }

    /// The readable form: the same decision, and then every rule on the way to it.
    pub(crate) async fn explain(&self, url: &str) -> String {
        self.told.set(Vec::new());
        let policy = self.policy.policy();
        let first = policy.explain(url);
        let permit = first.target().map(|target| self.policy.permit(target));
        let Some(Ok(permit)) = permit else { return format!("{url}\n{first}") };
        match self.connector.plan(&permit).await {
            Err(error) if error.is_dns() => format!("{url}\n{first}\n=> {error}"),
            // With the answers that the plan was made from, not with those of a second look-up.
            _ => format!("{url}\n{}", policy.explain_with_answers(url, &self.told.answers())),
        }
    }
}

fn reason(error: &ConnectError) -> &'static str {
    match error.denial() {
        Some(denial) => denial.reason().as_str(),
        None if error.is_timeout() => "dns_timeout",
        None => "dns_failed",
    }
}

fn invalid(out: &mut Map<String, Value>) {
    out.insert("allow".into(), false.into());
    out.insert("reason".into(), "invalid".into());
    out.insert("to".into(), json!([]));
}

/// No answers are none; anything but a list of addresses is not an answer.
fn parse_answers(answers: Option<&Value>) -> Option<Vec<IpAddr>> {
    match answers {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(|ip| ip.as_str()?.parse().ok()).collect(),
        Some(_) => None,
    }
}

fn read_file(args: &Args) -> Result<File, String> {
    let Some(path) = &args.policy else { return Ok(File::default()) };
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    toml::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
}

/// Lines of standard input; one that is not UTF-8 is as good as an empty one, and not the end.
fn lines() -> impl Iterator<Item = String> {
    let split = std::io::stdin().lock().split(b'\n');
    split.map_while(Result::ok).map(|line| String::from_utf8(line).unwrap_or_default().trim_end_matches('\r').to_owned())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    let checker = read_file(&args).and_then(|file| Checker::new(&file, !args.json).map_err(|e| e.to_string()));
    let checker = match checker {
        Ok(checker) => checker,
        Err(why) => {
            eprintln!("check_url: {why}");
            return ExitCode::from(2);
        }
    };
    let mut out = std::io::stdout().lock();
    let given: Vec<String> = args.urls;
    let input: Box<dyn Iterator<Item = String>> = if given.is_empty() {
        // Every JSON line has its answer, the empty one too.
        Box::new(lines().filter(move |line| args.json || !line.trim().is_empty()))
    } else if args.json {
        Box::new(given.into_iter().map(|url| json!({ "url": url }).to_string()))
    } else {
        Box::new(given.into_iter())
    };
    for line in input {
        let answer = if args.json { checker.answer_line(&line).await.to_string() } else { checker.explain(&line).await };
        // Written line by line: whoever asks may wait for the answer before asking again.
        if writeln!(out, "{answer}").and_then(|()| out.flush()).is_err() {
            break;
        }
    }
    ExitCode::SUCCESS
}
