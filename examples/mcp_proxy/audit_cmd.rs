//! `mcp_proxy audit FILE`

use std::{
    fs::File,
    io::{BufReader, stdin},
};

use portcullis::audit::{Filter, Summary};

use crate::{
    cli::AuditArgs,
    config::{Invalid, Moment},
};

pub fn run(args: &AuditArgs) -> Result<String, Invalid> {
    let mut filter = Filter::new();
    if let Some(text) = &args.since {
        filter = filter.since(
            Moment::parse(text)
                .ok_or_else(|| Invalid::new(format!("--since: `{}` is not like 2026-11-22T08:00:00Z", text.escape_debug())))?
                .0,
        );
    }
    if let Some(token) = &args.token {
        filter = filter.token(token.as_str());
    }
    if let Some(target) = &args.target {
        filter = filter.target(target);
    }
    let at = |e: &dyn std::fmt::Display| Invalid::at(&args.file.display().to_string(), e);
    let summary = if args.file.as_os_str() == "-" {
        Summary::read(stdin().lock(), &filter)
    } else {
        Summary::read(BufReader::new(File::open(&args.file).map_err(|e| at(&e))?), &filter)
    };
    summary.map(|s| s.to_string()).map_err(|e| at(&e))
}
