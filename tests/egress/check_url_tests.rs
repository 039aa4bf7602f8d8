//! `check_url`: one answer a line, from the same code as the server.

use serde_json::{Value, json};

use crate::{
    block_on,
    check_url::{Checker, File},
};

fn ask(policy: &str, line: &str) -> Value {
    let file: File = toml::from_str(policy).unwrap();
    let checker = Checker::new(&file, false).unwrap();
    block_on(checker.answer_line(line))
}

#[test]
fn the_contract() {
    for (line, want) in [
        (
            r#"{"id":"u1","url":"http://127.1/","answers":["93.184.215.14"]}"#,
            json!({"id":"u1","allow":false,"reason":"address","to":[]}),
        ),
        (
            r#"{"id":"u2","url":"http://example.com/","answers":["93.184.215.14"]}"#,
            json!({"id":"u2","allow":true,"reason":null,"to":["93.184.215.14:80"]}),
        ),
        (
            r#"{"id":3,"url":"https://example.com/","answers":["::ffff:8.8.8.8","2606:4700::1"]}"#,
            json!({"id":3,"allow":true,"reason":null,"to":["8.8.8.8:443","[2606:4700::1]:443"]}),
        ),
        (r#"{"url":"http://example.com/"}"#, json!({"allow":false,"reason":"no_such_name","to":[]})),
        (r#"{"url":"http://example.com/","answers":null}"#, json!({"allow":false,"reason":"no_such_name","to":[]})),
        (r#"{"url":"http://example.com/","answers":["10.0.0.1","8.8.8.8"]}"#, json!({"allow":false,"reason":"address","to":[]})),
        (r#"{"url":"http://localhost/","answers":["8.8.8.8"]}"#, json!({"allow":false,"reason":"name","to":[]})),
        (r#"{"id":"x","ip":"10.0.0.1"}"#, json!({"id":"x","ip":"10.0.0.1","allow":false,"class":"private"})),
        (r#"{"ip":"8.8.8.8"}"#, json!({"ip":"8.8.8.8","allow":true,"class":"global"})),
        (r#"{"ip":"64:ff9b::7f00:1"}"#, json!({"ip":"64:ff9b::7f00:1","allow":false,"class":"loopback"})),
        (r#"{"ip":"nonsense"}"#, json!({"ip":"nonsense","allow":false,"reason":"invalid"})),
        (r#"{"id":"b","url":"nonsense"}"#, json!({"id":"b","allow":false,"reason":"invalid","to":[]})),
        (r#"{"id":"b","url":7}"#, json!({"id":"b","allow":false,"reason":"invalid","to":[]})),
        (r#"{"id":"b","url":"http://example.com/","answers":["x"]}"#, json!({"id":"b","allow":false,"reason":"invalid","to":[]})),
        (r#"{"id":"b","url":"http://example.com/","ip":"8.8.8.8"}"#, json!({"id":"b","allow":false,"reason":"invalid","to":[]})),
        (r#"{"id":"b"}"#, json!({"id":"b","allow":false,"reason":"invalid","to":[]})),
        ("[]", json!({"allow":false,"reason":"invalid","to":[]})),
        ("", json!({"allow":false,"reason":"invalid","to":[]})),
        ("{", json!({"allow":false,"reason":"invalid","to":[]})),
    ] {
        assert_eq!(ask("", line), want, "{line}");
    }
}

#[test]
fn one_line_does_not_answer_for_the_next() {
    let checker = Checker::new(&File::default(), false).unwrap();
    let good = block_on(checker.answer_line(r#"{"url":"http://a.example/","answers":["8.8.8.8"]}"#));
    let none = block_on(checker.answer_line(r#"{"url":"http://a.example/"}"#));
    assert_eq!((&good["allow"], &none["reason"]), (&json!(true), &json!("no_such_name")));
}

#[test]
fn the_servers_file_is_the_policy() {
    let policy = r#"
        listen = "127.0.0.1:8000"
        [egress]
        deny_hosts = ["bad.example"]
        [[egress.exception]]
        cidrs = ["127.0.0.1/32"]
        ports = [3101]
        [limits]
        request_body = "4MiB"
    "#;
    let reason = |line: &str| ask(policy, line)["reason"].clone();
    assert_eq!(reason(r#"{"url":"http://bad.example/","answers":["8.8.8.8"]}"#), json!("denied_host"));
    assert_eq!(reason(r#"{"url":"http://127.0.0.1:3101/"}"#), json!(null));
    assert_eq!(reason(r#"{"url":"http://127.0.0.1:3102/"}"#), json!("address"));
    assert_eq!(ask(policy, r#"{"ip":"127.0.0.1"}"#), json!({"ip":"127.0.0.1","allow":true,"class":"loopback"}));
    assert!(toml::from_str::<File>("[egress]\nallow_host = []").is_err());
}

#[test]
fn the_readable_form_names_the_rule_and_the_addresses() {
    let checker = Checker::new(&File::default(), false).unwrap();
    let text = block_on(checker.explain("http://2130706433/"));
    assert!(text.contains("127.0.0.1 is loopback") && text.contains("refused: address"), "{text}");
    let text = block_on(checker.explain("http://missing.example/"));
    assert!(text.contains("refused: no_such_name"), "{text}");
    assert!(block_on(checker.explain("nonsense")).contains("refused: invalid"));
}
