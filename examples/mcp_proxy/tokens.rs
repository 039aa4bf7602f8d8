//! Token records out of the configuration, and `token new`.

use portcullis::tokens::{DEFAULT_PREFIX, GeneratedToken, TokenHash, TokenHasher, TokenRecord, TokenScopes, generate};

use crate::{
    cli::NewToken,
    config::{Config, Invalid, OneOrMore, OrOff, Rate, Token},
};

/// The records in force, and whether there is any that anybody could hold.
pub fn records(config: &Config) -> Result<Vec<TokenRecord>, Invalid> {
    let hasher = TokenHasher::plain();
    let mut records = Vec::new();
    for token in &config.file.token {
        let record = record(token, &hasher).map_err(|e| Invalid::at(&format!("[[token]] `{}`", token.id.escape_debug()), e))?;
        records.push(record);
    }
    if let Some(secret) = &config.env_token {
        let hash =
            hasher.hash(secret).map_err(|_| Invalid::new("PROXY_TOKEN: a token has at least 32 visible ASCII characters"))?;
        let record = TokenRecord::new("env").and_then(|r| r.with_hash(hash));
        records.push(record.map_err(|e| Invalid::at("PROXY_TOKEN", e))?);
    }
    Ok(records)
}

/// A token for a server that has none. Whoever reads it on standard error runs the server, and may ask it for its reasons.
pub fn make() -> Result<(GeneratedToken, TokenRecord), Invalid> {
    let made = generate(DEFAULT_PREFIX).map_err(|e| Invalid::at("token", e))?;
    let record =
        TokenHasher::plain().hash(made.secret.expose()).and_then(|hash| TokenRecord::new("made-at-start")?.with_hash(hash));
    let record = record.map(|r| r.with_scopes(TokenScopes::new().operator(true)));
    Ok((made, record.map_err(|e| Invalid::at("token", e))?))
}

fn record(token: &Token, hasher: &TokenHasher) -> Result<TokenRecord, String> {
    let text = |e: portcullis::ConfigError| e.to_string();
    let mut record = TokenRecord::new(&token.id).map_err(text)?;
    let mut digests: Vec<TokenHash> = Vec::new();
    for hex in token.sha256.iter().flat_map(OneOrMore::iter) {
        digests.push(TokenHash::from_hex(hex).map_err(|e| format!("sha256: {e}"))?);
    }
    if let Some(name) = &token.secret_env {
        let secret = std::env::var(name).map_err(|_| format!("secret_env: {name} is not set"))?;
        let hash = if token.force_short { hasher.weak(&secret) } else { hasher.hash(&secret) };
        digests.push(hash.map_err(|_| format!("secret_env: {name} has less than 32 visible ASCII characters"))?);
    }
    for hash in digests {
        let hash = hash.not_before(token.not_before.map(|m| m.0));
        record = record.with_hash(hash).map_err(text)?;
    }
    let scopes = scopes(token).map_err(text)?;
    record = record.expires(token.expires.map(|m| m.0)).disabled(token.disabled).with_scopes(scopes);
    if let Some(rate) = token.rate {
        record = record.with_quota(quota_name(rate));
    }
    Ok(record)
}

fn scopes(token: &Token) -> Result<TokenScopes, portcullis::ConfigError> {
    let mut scopes = TokenScopes::new().operator(token.operator);
    if let Some(targets) = &token.targets {
        scopes = scopes.targets(texts(targets))?;
    }
    if let Some(methods) = &token.methods {
        scopes = scopes.methods(texts(methods))?;
    }
    if let Some(allowed) = token.websocket {
        scopes = scopes.websocket(allowed);
    }
    if let Some(methods) = &token.mcp_methods {
        scopes = scopes.mcp_methods(texts(methods))?;
    }
    if let Some(tools) = &token.tools {
        scopes = scopes.tools(texts(tools))?;
    }
    Ok(scopes)
}

fn texts(list: &[String]) -> impl Iterator<Item = &str> {
    list.iter().map(String::as_str)
}

/// The quota class of a token's own rate; equal rates are one class, whose quota each of its tokens has for itself.
pub fn quota_name(rate: OrOff<Rate>) -> String {
    match rate {
        OrOff::Off => "off".to_owned(),
        OrOff::Is(rate) => format!("token-{}-in-{}s", rate.count, rate.per.as_secs()),
    }
}

/// `mcp_proxy token new`
pub fn new(args: &NewToken) -> Result<String, Invalid> {
    use std::fmt::Write as _;
    let made = generate(DEFAULT_PREFIX).map_err(|e| Invalid::at("token", e))?;
    let hasher = TokenHasher::plain();
    let mut toml = String::from("[[token]]\n");
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let list = |texts: &[String]| toml::Value::from(texts.to_vec()).to_string();
    let digest = hasher.digest(made.secret.expose().as_bytes());
    let _ = writeln!(toml, "id = {}\nsha256 = \"{}\"", quoted(&args.id), digest.to_hex());
    if let Some(expires) = &args.expires {
        let _ = writeln!(toml, "expires = {expires}");
    }
    if !args.targets.is_empty() {
        let _ = writeln!(toml, "targets = {}", list(&args.targets));
    }
    if !args.tools.is_empty() {
        let _ = writeln!(toml, "tools = {}", list(&args.tools));
    }
    if let Some(rate) = &args.rate {
        let _ = writeln!(toml, "rate = {}", quoted(rate));
    }
    if args.operator {
        toml.push_str("operator = true\n");
    }
    // What is printed is what will be read.
    let file = crate::config::File::parse(&toml)?;
    for token in &file.token {
        record(token, &hasher).map_err(Invalid::new)?;
    }
    Ok(format!("The token, shown once:\n\n{}\n\nIts record for the configuration:\n\n{toml}", made.secret.expose()))
}
