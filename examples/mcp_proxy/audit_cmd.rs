//! `mcp_proxy audit FILE...`

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, stdin},
    path::{Path, PathBuf},
};

use portcullis::audit::{Filter, Summary};

use crate::{
    cli::AuditArgs,
    config::{Invalid, Moment},
    rotate::Names,
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
    let mut summary = Summary::default();
    for path in &args.files {
        let at = |path: &Path, e: io::Error| Invalid::at(&path.display().to_string(), e);
        if path.as_os_str() == "-" {
            add(&mut summary, stdin().lock(), &filter).map_err(|e| at(path, e))?;
            continue;
        }
        for file in meant(path).map_err(|e| at(path, e))? {
            let added = File::open(&file).and_then(|f| add(&mut summary, BufReader::new(f), &filter));
            added.map_err(|e| at(&file, e))?;
        }
    }
    Ok(summary.to_string())
}

fn add(summary: &mut Summary, mut input: impl BufRead, filter: &Filter) -> io::Result<()> {
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line)? > 0 {
        summary.add(&line, filter);
        line.clear();
    }
    Ok(())
}

/// A directory is all files in it. A file is that file. A name that is `audit.path` of a server that rotates is what it has become,
/// the oldest first, after the file of that very name if there is one from before.
fn meant(path: &Path) -> io::Result<Vec<PathBuf>> {
    if path.is_dir() {
        let mut files = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                files.push(entry.path());
            }
        }
        files.sort();
        return Ok(files);
    }
    let mut files: Vec<PathBuf> = path.exists().then(|| path.to_owned()).into_iter().collect();
    if let Some(names) = Names::of(path) {
        // The directory may be closed to whoever may read the file.
        match names.list(None) {
            Ok(turned) => files.extend(turned),
            Err(error) if files.is_empty() => return Err(error),
            Err(_) => {}
        }
    }
    if files.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(files) }
}
