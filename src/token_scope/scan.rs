//! Reads JSON-RPC messages out of JSON as it streams by, keeping two strings and a depth.
//!
//! Strict on purpose. Whatever two parsers could read differently is a [`Violation`].

/// Deepest nesting that is followed.
const MAX_DEPTH: usize = 256;
/// Longest method, tool name or key that is kept, in bytes.
const MAX_TEXT: usize = 1024;
/// Most messages of a batch.
const MAX_BATCH: usize = 256;

/// JSON that is none, or that could be read in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Violation;

/// What is known of one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) method: Option<String>,
    /// `params.name`, if it is a string.
    pub(super) name: Option<String>,
    /// There is a `result` or an `error`: an answer to a request of the server's.
    pub(super) is_reply: bool,
    seen_params: bool,
    seen_name: bool,
}

/// The scanner. Feed it the bytes in order.
#[derive(Debug)]
pub(super) struct Scanner {
    stack: Vec<Container>,
    expect: Expect,
    string: Option<Text>,
    /// The key whose value comes next, where it is one that matters.
    key: Key,
    /// The object of the current message's `params` is open.
    in_params: bool,
    batch: bool,
    current: Message,
    complete: Vec<Message>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Container {
    Object,
    Array,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Value,
    ValueOrEnd,
    KeyOrEnd,
    Key,
    Colon,
    CommaOrEnd,
    /// Inside a number, `true`, `false` or `null`.
    Bare,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Method,
    Params,
    Name,
    Other,
}

/// A string that is being read.
#[derive(Debug)]
struct Text {
    is_key: bool,
    /// The decoded bytes, where they matter; `None` once they do not.
    kept: Option<Vec<u8>>,
    escape: Escape,
    /// The first half of a surrogate pair.
    high: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    No,
    Backslash,
    Hex { digits: u8, value: u32 },
}

impl Scanner {
    pub(super) fn new() -> Self {
        Self {
            stack: Vec::new(),
            expect: Expect::Value,
            string: None,
            key: Key::Other,
            in_params: false,
            batch: false,
            current: Message::default(),
            complete: Vec::new(),
        }
    }

    /// Whether the document has come to its end.
    pub(super) fn is_done(&self) -> bool {
        self.expect == Expect::Done
    }

    /// The messages that have come to their end.
    pub(super) fn messages(&self) -> &[Message] {
        &self.complete
    }

    /// What is known of a message that has not come to its end; `None` inside a batch.
    pub(super) fn unfinished(&self) -> Option<&Message> {
        (!self.batch && self.expect != Expect::Done).then_some(&self.current)
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        bytes.iter().try_for_each(|b| self.step(*b))
    }

    fn step(&mut self, byte: u8) -> Result<(), Violation> {
        if let Some(text) = &mut self.string {
            return if text.step(byte)? { self.end_string() } else { Ok(()) };
        }
        if self.expect == Expect::Bare {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.') {
                return Ok(());
            }
            self.end_value();
        }
        match (byte, self.expect) {
            (b' ' | b'\t' | b'\r' | b'\n', _) => Ok(()),
            (b'{', Expect::Value | Expect::ValueOrEnd) => self.open(Container::Object),
            (b'[', Expect::Value | Expect::ValueOrEnd) => self.open(Container::Array),
            (b'}', Expect::KeyOrEnd | Expect::CommaOrEnd) => self.close(Container::Object),
            (b']', Expect::ValueOrEnd | Expect::CommaOrEnd) => self.close(Container::Array),
            (b'"', Expect::Key | Expect::KeyOrEnd) => {
                let matters = self.at_message() || self.at_params();
                self.string = Some(Text::new(true, matters));
                Ok(())
            }
            (b'"', Expect::Value | Expect::ValueOrEnd) if !self.stack.is_empty() => {
                let matters = matches!(self.key, Key::Method | Key::Name);
                self.string = Some(Text::new(false, matters));
                Ok(())
            }
            (b':', Expect::Colon) => {
                self.expect = Expect::Value;
                Ok(())
            }
            (b',', Expect::CommaOrEnd) => {
                self.expect = if self.stack.last() == Some(&Container::Object) { Expect::Key } else { Expect::Value };
                Ok(())
            }
            (b'-' | b'0'..=b'9' | b't' | b'f' | b'n', Expect::Value | Expect::ValueOrEnd) if !self.stack.is_empty() => {
                if self.key == Key::Method || self.between_messages() {
                    return Err(Violation);
                }
                self.expect = Expect::Bare;
                Ok(())
            }
            _ => Err(Violation),
        }
    }

    /// The depth at which a message's own keys stand.
    fn base(&self) -> usize {
        1 + usize::from(self.batch)
    }

    fn at_message(&self) -> bool {
        self.stack.len() == self.base() && self.stack.last() == Some(&Container::Object)
    }

    fn at_params(&self) -> bool {
        self.in_params && self.stack.len() == self.base() + 1
    }

    /// Inside a batch's array, where only objects may stand.
    fn between_messages(&self) -> bool {
        self.batch && self.stack.len() == 1
    }

    fn open(&mut self, container: Container) -> Result<(), Violation> {
        match (self.stack.len(), container) {
            (0, Container::Array) => self.batch = true,
            (1, Container::Array) if self.batch => return Err(Violation),
            _ if self.key == Key::Method => return Err(Violation),
            _ if self.key == Key::Params && self.at_message() => self.in_params = container == Container::Object,
            _ => {}
        }
        if self.stack.len() >= MAX_DEPTH || self.complete.len() >= MAX_BATCH {
            return Err(Violation);
        }
        self.stack.push(container);
        self.key = Key::Other;
        self.expect = match container {
            Container::Object => Expect::KeyOrEnd,
            Container::Array => Expect::ValueOrEnd,
        };
        Ok(())
    }

    fn close(&mut self, container: Container) -> Result<(), Violation> {
        if self.at_params() {
            self.in_params = false;
        }
        if self.at_message() {
            self.complete.push(std::mem::take(&mut self.current));
        }
        if self.stack.pop() != Some(container) {
            return Err(Violation);
        }
        self.end_value();
        Ok(())
    }

    fn end_value(&mut self) {
        self.key = Key::Other;
        self.expect = if self.stack.is_empty() { Expect::Done } else { Expect::CommaOrEnd };
    }

    fn end_string(&mut self) -> Result<(), Violation> {
        let Some(text) = self.string.take() else { return Err(Violation) };
        if text.high.is_some() && text.kept.is_some() {
            return Err(Violation);
        }
        let kept = text.kept.map(|bytes| String::from_utf8(bytes).map_err(|_| Violation)).transpose()?;
        if text.is_key {
            self.expect = Expect::Colon;
            self.key = match kept {
                Some(key) if self.at_params() => self.params_key(&key)?,
                Some(key) => self.message_key(&key)?,
                None => Key::Other,
            };
            return Ok(());
        }
        if self.between_messages() {
            return Err(Violation);
        }
        match self.key {
            // Too long to be kept: no method and no tool has such a name.
            Key::Method | Key::Name if kept.is_none() => return Err(Violation),
            Key::Method => self.current.method = kept,
            Key::Name => self.current.name = kept,
            Key::Params | Key::Other => {}
        }
        self.end_value();
        Ok(())
    }

    fn message_key(&mut self, key: &str) -> Result<Key, Violation> {
        match folded(key).as_str() {
            "method" if key == "method" && self.current.method.is_none() => Ok(Key::Method),
            "params" if key == "params" && !self.current.seen_params => {
                self.current.seen_params = true;
                Ok(Key::Params)
            }
            "method" | "params" => Err(Violation),
            "result" | "error" => {
                self.current.is_reply = true;
                Ok(Key::Other)
            }
            _ => Ok(Key::Other),
        }
    }

    fn params_key(&mut self, key: &str) -> Result<Key, Violation> {
        if folded(key) != "name" {
            return Ok(Key::Other);
        }
        if key != "name" || self.current.seen_name {
            return Err(Violation);
        }
        self.current.seen_name = true;
        Ok(Key::Name)
    }
}

/// As parsers fold that take keys in any case: ASCII, and the two characters outside it that fold into ASCII.
fn folded(key: &str) -> String {
    let fold = |c: char| match c {
        '\u{17F}' => 's',
        '\u{212A}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    key.chars().map(fold).collect()
}

impl Text {
    fn new(is_key: bool, matters: bool) -> Self {
        Self { is_key, kept: matters.then(Vec::new), escape: Escape::No, high: None }
    }

    /// Takes one byte; true at the closing quote.
    fn step(&mut self, byte: u8) -> Result<bool, Violation> {
        match self.escape {
            Escape::No => match byte {
                b'"' => return Ok(true),
                b'\\' => self.escape = Escape::Backslash,
                0..=0x1F => return Err(Violation),
                byte => self.push(&[byte])?,
            },
            Escape::Backslash => {
                self.escape = Escape::No;
                match byte {
                    b'"' | b'\\' | b'/' => self.push(&[byte])?,
                    b'b' => self.push(b"\x08")?,
                    b'f' => self.push(b"\x0C")?,
                    b'n' => self.push(b"\n")?,
                    b'r' => self.push(b"\r")?,
                    b't' => self.push(b"\t")?,
                    b'u' => self.escape = Escape::Hex { digits: 0, value: 0 },
                    _ => return Err(Violation),
                }
            }
            Escape::Hex { digits, value } => {
                let value = value << 4 | char::from(byte).to_digit(16).ok_or(Violation)?;
                self.escape = Escape::Hex { digits: digits + 1, value };
                if digits == 3 {
                    self.escape = Escape::No;
                    self.unit(value)?;
                }
            }
        }
        Ok(false)
    }

    /// One UTF-16 unit of a `\u` escape.
    fn unit(&mut self, unit: u32) -> Result<(), Violation> {
        let code = match (self.high.take(), unit) {
            (None, 0xD800..=0xDBFF) => {
                self.high = Some(unit);
                return Ok(());
            }
            (Some(high), 0xDC00..=0xDFFF) => 0x1_0000 + ((high - 0xD800) << 10) + (unit - 0xDC00),
            (Some(_), _) if self.kept.is_some() => return Err(Violation),
            (_, unit) => unit,
        };
        match char::from_u32(code) {
            Some(c) => self.push(c.encode_utf8(&mut [0; 4]).as_bytes()),
            None if self.kept.is_some() => Err(Violation),
            None => Ok(()),
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        let Some(kept) = &mut self.kept else { return Ok(()) };
        if self.high.is_some() {
            return Err(Violation);
        }
        if kept.len() + bytes.len() > MAX_TEXT {
            self.kept = None;
        } else {
            kept.extend_from_slice(bytes);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn scan(text: &[u8]) -> Result<Vec<Message>, Violation> {
        let mut scanner = Scanner::new();
        scanner.feed(text)?;
        if scanner.is_done() { Ok(scanner.messages().to_vec()) } else { Err(Violation) }
    }

    fn one(text: &str) -> (Option<String>, Option<String>) {
        let messages = scan(text.as_bytes()).unwrap_or_else(|_| panic!("{text}"));
        assert_eq!(messages.len(), 1);
        (messages[0].method.clone(), messages[0].name.clone())
    }

    fn pair(method: &str, name: &str) -> (Option<String>, Option<String>) {
        (Some(method.into()), Some(name.into()))
    }

    #[test]
    fn method_and_name_are_found_wherever_they_stand() {
        let call = pair("tools/call", "echo");
        assert_eq!(
            one(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"name":"x"}}}"#),
            call
        );
        assert_eq!(
            one(r#" { "params" : { "arguments":{"name":"rm"} , "name" : "echo" } , "id":null,"method":"tools\/call" }"#),
            call
        );
        assert_eq!(one(r#"{"\u006dethod":"t\u006fols/call","params":{"n\u0061me":"ech\u006F"}}"#), call);
        assert_eq!(
            one(r#"{"x":{"method":"a"},"y":["method",{"params":{"name":"b"}}],"method":"ping"}"#),
            (Some("ping".into()), None)
        );
        assert_eq!(one(r#"{"method":"x","params":{"name":"\ud83d\ude00"}}"#), pair("x", "\u{1F600}"));
        assert_eq!(one(r#"{"method":"x","params":[1,{"name":"q"}]}"#), (Some("x".into()), None));
        assert_eq!(one(r#"{"method":"x","params":{"name":7}}"#), (Some("x".into()), None));
        let reply = scan(br#"{"jsonrpc":"2.0","id":1,"result":{"method":"x"}}"#).unwrap();
        assert!(reply[0].is_reply && reply[0].method.is_none());
        let batch = scan(br#"[{"method":"a"},{"method":"b","params":{"name":"n"}},{"id":1,"error":{}}]"#).unwrap();
        assert_eq!(batch.iter().map(|m| m.method.as_deref()).collect::<Vec<_>>(), [Some("a"), Some("b"), None]);
        assert_eq!(batch[1].name.as_deref(), Some("n"));
    }

    #[test]
    fn whatever_could_be_read_in_two_ways_is_refused() {
        for text in [
            r#"{"method":"ping","method":"tools/call"}"#,
            r#"{"method":"ping","\u006dethod":"tools/call"}"#,
            r#"{"method":"ping","Method":"tools/call"}"#,
            r#"{"METHOD":"tools/call"}"#,
            r#"{"method":"x","params":{"name":"a","name":"b"}}"#,
            r#"{"method":"x","params":{"name":"a","Name":"b"}}"#,
            r#"{"method":"x","params":{"name":"a"},"params":{"name":"b"}}"#,
            "{\"method\":\"x\",\"params\":{},\"param\u{17f}\":{\"name\":\"b\"}}",
            r#"{"method":["tools/call"]}"#,
            r#"{"method":7}"#,
            r#"{"method":null}"#,
            r#"{"method":"x"}{"method":"y"}"#,
            r#"{"method":"x"} 1"#,
            "\u{feff}{\"method\":\"x\"}",
            r"{'method':'x'}",
            r#"{method:"x"}"#,
            r#"{"method":"x",}"#,
            r#"{"method":"x"/*"*/}"#,
            r#"{"method":"x" "method":"y"}"#,
            "{\"method\":\"x\ny\"}",
            r#"{"meth\od":"x"}"#,
            r#"{"method":"\ud800x"}"#,
            r#"{"method":"\udc00"}"#,
            r#"{"method":"\ud800"}"#,
            r#"{"method\ud800":"x"}"#,
            r#"[["method"]]"#,
            r"[1]",
            r#"["x"]"#,
            r#"[{"method":"x"}"#,
            r#""method""#,
            "1",
            "",
            "  ",
            r#"{"method":"x"]"#,
        ] {
            assert_eq!(scan(text.as_bytes()), Err(Violation), "{text}");
        }
        assert_eq!(scan(b"{\"method\":\"\xFF\"}"), Err(Violation));
        assert_eq!(scan(&"{\"method\":\"x\"}".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>()), Err(Violation));
        assert_eq!(scan("[".repeat(10_000).as_bytes()), Err(Violation));
        assert_eq!(scan(format!("{{\"method\":\"x\",\"a\":{}", "[".repeat(10_000)).as_bytes()), Err(Violation));
        assert_eq!(scan(format!("{{\"method\":\"{}\"}}", "x".repeat(5000)).as_bytes()), Err(Violation));
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            let key =
                prop_oneof![Just("method".to_owned()), Just("name".to_owned()), Just("params".to_owned()), "[a-z\\\\\"é😀]{0,6}"];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(key, inner, 0..4).prop_map(|m| m.into_iter().collect::<Value>()),
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_a_real_parser(params in values(), extra in values(), method in ".{0,20}", pretty in any::<bool>()) {
            let doc = json!({ "jsonrpc": "2.0", "method": method, "params": params, "extra": extra });
            let text = if pretty { serde_json::to_string_pretty(&doc) } else { serde_json::to_string(&doc) }.unwrap();
            let (found, name) = one(&text);
            prop_assert_eq!(found, Some(method));
            prop_assert_eq!(name.as_deref(), doc["params"]["name"].as_str());
        }

        #[test]
        fn whatever_comes_does_no_harm_and_what_passes_is_json(text in "[\\[\\]{}\":,a0\\\\u \"method\"]{0,40}") {
            if let Ok(messages) = scan(text.as_bytes()) {
                // Numbers and bare words are not checked letter by letter: they hold no structure.
                if let Ok(doc) = serde_json::from_str::<Value>(&text) {
                    let first = if doc.is_array() { &doc[0] } else { &doc };
                    let seen = messages.first().and_then(|m| m.method.as_deref());
                    prop_assert_eq!(seen, first["method"].as_str());
                }
            }
        }
    }
}
