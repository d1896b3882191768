//! From the text of a script to what it says.

use crate::script::{
    Call, EcnField, Event, Icmp, OptionItem, Packet, Script, Tcp, Time, Value, What,
};

/// Why a text is no script.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {expected} expected, not `{found}`")]
pub struct ParseError {
    /// Line, from 1 on.
    pub line: usize,
    expected: String,
    found: String,
}

type Parsed<T> = Result<T, ParseError>;

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    ///
    /// [`ParseError`] says where it stops making sense.
    pub fn parse(text: &str) -> Parsed<Self> {
        let mut reader = Reader { text, at: 0 };
        let mut script = Self::default();
        reader.blank();
        while reader.eat("--") {
            let name = reader.while_true(|c| c != '=' && c != '\n').trim().to_string();
            let value = match reader.eat("=") {
                true => reader.while_true(|c| c != '\n').trim().to_string(),
                false => String::new(),
            };
            script.options.push((name, value));
            reader.blank();
        }
        while !reader.is_at_end() {
            script.events.push(reader.event()?);
            reader.blank();
        }
        Ok(script)
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn is_at_end(&self) -> bool {
        self.rest().is_empty()
    }

    fn line(&self) -> usize {
        1 + self.text[..self.at].matches('\n').count()
    }

    fn wrong<T>(&self, expected: &str) -> Parsed<T> {
        let found = self.rest().lines().next().unwrap_or("the end").chars().take(40).collect();
        Err(ParseError { line: self.line(), expected: expected.to_string(), found })
    }

    fn while_true(&mut self, holds: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !holds(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// Skips spaces and comments, also over lines.
    fn blank(&mut self) {
        loop {
            self.while_true(char::is_whitespace);
            if self.rest().starts_with("//") || self.rest().starts_with('#') {
                self.while_true(|c| c != '\n');
            } else if self.rest().starts_with("/*") {
                self.at += self.rest().find("*/").map_or(self.rest().len(), |end| end + 2);
            } else {
                return;
            }
        }
    }

    /// Takes `word`, if it is next.
    fn eat(&mut self, word: &str) -> bool {
        let next = self.rest().starts_with(word);
        if next {
            self.at += word.len();
        }
        next
    }

    /// Takes `token` after spaces, if it is next.
    fn token(&mut self, token: &str) -> bool {
        let before = self.at;
        self.blank();
        let next = self.eat(token);
        if !next {
            self.at = before;
        }
        next
    }

    fn need(&mut self, token: &str) -> Parsed<()> {
        if self.token(token) { Ok(()) } else { self.wrong(&format!("`{token}`")) }
    }

    fn word(&mut self) -> &'a str {
        self.blank();
        self.while_true(|c| c.is_ascii_alphanumeric() || c == '_')
    }

    /// Takes the word `word`, if it is next.
    fn keyword(&mut self, word: &str) -> bool {
        let before = self.at;
        let same = self.word() == word;
        if !same {
            self.at = before;
        }
        same
    }

    fn number<T: TryFrom<i64>>(&mut self) -> Parsed<T> {
        self.blank();
        let before = self.at;
        let negative = self.eat("-");
        let value = if self.eat("0x") {
            i64::from_str_radix(self.while_true(|c| c.is_ascii_hexdigit()), 16).ok()
        } else {
            self.while_true(|c| c.is_ascii_digit()).parse().ok()
        };
        let signed = value.map(|value: i64| if negative { -value } else { value });
        match signed.and_then(|value| T::try_from(value).ok()) {
            Some(value) => Ok(value),
            None => {
                self.at = before;
                self.wrong("a number")
            }
        }
    }

    fn between(&mut self, open: &str, close: &str) -> Parsed<&'a str> {
        self.need(open)?;
        let Some(end) = self.rest().find(close) else { return self.wrong(&format!("`{close}`")) };
        let inside = &self.rest()[..end];
        self.at += end + close.len();
        Ok(inside)
    }

    fn event(&mut self) -> Parsed<Event> {
        let line = self.line();
        let untimed = self.rest().starts_with('`') || self.rest().starts_with("%{");
        let now = Time { relative: true, span_ns: Some(0..0), ends_ns: None };
        let time = if untimed { now } else { self.time()? };
        self.blank();
        let what = if self.rest().starts_with('`') {
            What::Command(self.between("`", "`")?.to_string())
        } else if self.rest().starts_with("%{") {
            What::Code(self.between("%{", "}%")?.to_string())
        } else if self.eat("<") {
            What::Arrives(self.packet()?)
        } else if self.eat(">") {
            What::Leaves(self.packet()?)
        } else {
            What::Call(self.call()?)
        };
        Ok(Event { line, time, what })
    }

    fn time(&mut self) -> Parsed<Time> {
        self.blank();
        if self.eat("*") {
            return Ok(Time { relative: true, span_ns: None, ends_ns: None });
        }
        let relative = self.eat("+");
        let from_ns = self.seconds()?;
        let (mut to_ns, mut ends_ns) = (from_ns, None);
        if self.token("~") {
            self.eat("+");
            to_ns = self.seconds()?;
        } else if self.token("...") {
            self.eat("+");
            ends_ns = Some(self.seconds()?);
        }
        Ok(Time { relative, span_ns: Some(from_ns..to_ns), ends_ns })
    }

    fn seconds(&mut self) -> Parsed<u64> {
        self.blank();
        let before = self.at;
        // Of `0...0.2` the first number ends before the dots.
        let whole = self.while_true(|c| c.is_ascii_digit());
        let mut part = "";
        if !self.rest().starts_with("...") && self.eat(".") {
            part = self.while_true(|c| c.is_ascii_digit());
        }
        if whole.is_empty() && part.is_empty() || part.len() > 9 {
            self.at = before;
            return self.wrong("a time in seconds");
        }
        let seconds: u64 = if whole.is_empty() { 0 } else { whole.parse().unwrap_or(u64::MAX) };
        let nanos: u64 = format!("{part:0<9}").parse().unwrap_or(0);
        Ok(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
    }

    fn packet(&mut self) -> Parsed<Packet> {
        let (mut ecn, mut tos) = (None, None);
        while self.token("[") {
            if self.keyword("tos") {
                tos = Some(self.number::<u8>()?);
            } else {
                ecn = Some(match self.word() {
                    "noecn" => EcnField::Is(0),
                    "ect1" => EcnField::Is(1),
                    "ect0" => EcnField::Is(2),
                    "ect01" => EcnField::Capable,
                    "ce" => EcnField::Is(3),
                    _ => return self.wrong("`noecn`, `ect0`, `ect1`, `ect01` or `ce`"),
                });
            }
            self.token(",");
            self.need("]")?;
        }
        if self.keyword("icmp") {
            return self.icmp().map(Packet::Icmp);
        }
        let before = self.at;
        let ports = match self.number::<u16>() {
            Ok(source) if self.token(">") => Some((source, self.number()?)),
            _ => {
                self.at = before;
                None
            }
        };
        self.tcp(ecn, tos, ports).map(Packet::Tcp)
    }

    fn icmp(&mut self) -> Parsed<Icmp> {
        let kind = match (self.word(), self.word()) {
            ("unreachable", "net_unreachable") => (3, 0),
            ("unreachable", "host_unreachable") => (3, 1),
            ("unreachable", "protocol_unreachable") => (3, 2),
            ("unreachable", "port_unreachable") => (3, 3),
            ("unreachable", "frag_needed") => (3, 4),
            ("unreachable", "source_route_failed") => (3, 5),
            ("unreachable", "net_unknown") => (3, 6),
            ("unreachable", "host_unknown") => (3, 7),
            ("unreachable", "source_host_isolated") => (3, 8),
            ("unreachable", "net_prohibited") => (3, 9),
            ("unreachable", "host_prohibited") => (3, 10),
            ("unreachable", "net_unreachable_for_tos") => (3, 11),
            ("unreachable", "host_unreachable_for_tos") => (3, 12),
            ("unreachable", "communication_prohibited") => (3, 13),
            ("source_quench", "") => (4, 0),
            ("time_exceeded", "ttl_exceeded") => (11, 0),
            ("parameter_problem", "") => (12, 0),
            _ => return self.wrong("a kind of control message"),
        };
        let mtu = if self.keyword("mtu") { self.number()? } else { 0 };
        self.need("[")?;
        let (sequence, bytes) = self.range()?;
        self.need("]")?;
        Ok(Icmp { kind, mtu, quotes: (sequence, bytes) })
    }

    /// `1:1001(1000)`
    fn range(&mut self) -> Parsed<(u32, u32)> {
        let start = self.number::<u32>()?;
        self.need(":")?;
        let end = self.number::<u32>()?;
        self.need("(")?;
        let bytes = self.number::<u32>()?;
        self.need(")")?;
        if end.wrapping_sub(start) != bytes {
            return self.wrong("a length that fits its ends before this");
        }
        Ok((start, bytes))
    }

    fn tcp(
        &mut self,
        ecn: Option<EcnField>,
        tos: Option<u8>,
        ports: Option<(u16, u16)>,
    ) -> Parsed<Tcp> {
        self.blank();
        let mut flags = 0;
        for letter in self.while_true(|c| !c.is_whitespace()).chars() {
            flags |= match letter {
                'F' => 0x01,
                'S' => 0x02,
                'R' => 0x04,
                'P' => 0x08,
                '.' => 0x10,
                'U' => 0x20,
                'E' => 0x40,
                'W' => 0x80,
                '-' => 0,
                _ => return self.wrong("flags of FSRP.UEW before this"),
            };
        }
        let (sequence, bytes) = self.range()?;
        let acknowledgment = if self.keyword("ack") { Some(self.number()?) } else { None };
        let window = if self.keyword("win") { Some(self.number()?) } else { None };
        let urgent = if self.keyword("urg") { Some(self.number()?) } else { None };
        let options = if self.line_goes_on_with('<') { self.options()? } else { Some(Vec::new()) };
        Ok(Tcp { ecn, tos, ports, flags, sequence, bytes, acknowledgment, window, urgent, options })
    }

    /// Options stand on the line of their packet.
    fn line_goes_on_with(&self, next: char) -> bool {
        self.rest().trim_start_matches([' ', '\t']).starts_with(next)
    }

    fn options(&mut self) -> Parsed<Option<Vec<OptionItem>>> {
        self.need("<")?;
        if self.token("...") {
            self.need(">")?;
            return Ok(None);
        }
        let mut items = Vec::new();
        while !self.token(">") {
            items.push(match self.word() {
                "nop" => OptionItem::Nop,
                "eol" => OptionItem::End,
                "mss" => OptionItem::Mss(self.number()?),
                "wscale" => OptionItem::WindowShift(self.number()?),
                "sackOK" => OptionItem::SackPermitted,
                "TS" => {
                    let value = if self.keyword("val") { self.number()? } else { 0 };
                    let echo = if self.keyword("ecr") { self.number()? } else { 0 };
                    OptionItem::Timestamps(value, echo)
                }
                "sack" => {
                    let mut blocks = Vec::new();
                    while let Ok(start) = self.number::<u32>() {
                        self.need(":")?;
                        blocks.push((start, self.number()?));
                    }
                    OptionItem::Sack(blocks)
                }
                "kind" => {
                    let kind = self.number()?;
                    let content = self.between("[", "]")?;
                    let bytes = content.split_whitespace().map(|b| u8::from_str_radix(b, 16));
                    match bytes.collect() {
                        Ok(bytes) => OptionItem::Other(kind, bytes),
                        Err(_) => return self.wrong("bytes in hexadecimal before this"),
                    }
                }
                _ => return self.wrong("an option"),
            });
            self.token(",");
        }
        Ok(Some(items))
    }

    fn call(&mut self) -> Parsed<Call> {
        let name = self.word().to_string();
        if name.is_empty() {
            return self.wrong("a packet, a call, a command or code");
        }
        self.need("(")?;
        let mut arguments = Vec::new();
        while !self.token(")") {
            arguments.push(self.value()?);
            self.token(",");
        }
        self.need("=")?;
        let returns = self.value()?;
        let rest_of_line = self.while_true(|c| c == ' ' || c == '\t');
        let upper = self.rest().starts_with(|c: char| c.is_ascii_uppercase());
        let errno = (!rest_of_line.is_empty() && upper).then(|| self.word().to_string());
        if errno.is_some() && self.line_goes_on_with('(') {
            self.between("(", ")")?;
        }
        Ok(Call { name, arguments, returns, errno })
    }

    fn value(&mut self) -> Parsed<Value> {
        self.blank();
        if self.eat("...") {
            return Ok(Value::Any);
        }
        if self.eat("\"") {
            let text = self.while_true(|c| c != '"').to_string();
            self.need("\"")?;
            return Ok(Value::Text(text));
        }
        if self.eat("[") {
            let mut values = Vec::new();
            while !self.token("]") {
                values.push(self.value()?);
                self.token(",");
            }
            return Ok(Value::List(values));
        }
        if self.eat("{") {
            let mut fields = Vec::new();
            while !self.token("}") {
                let name = self.word().to_string();
                self.need("=")?;
                fields.push((name, self.value()?));
                self.token(",");
            }
            return Ok(Value::Struct(fields));
        }
        if self.rest().starts_with(|c: char| c.is_ascii_digit() || c == '-') {
            return self.number().map(Value::Number);
        }
        let mut names = vec![self.word().to_string()];
        if names[0].is_empty() {
            return self.wrong("a value");
        }
        if names[0] == "htons" && self.token("(") {
            let port = self.number()?;
            self.need(")")?;
            return Ok(Value::Number(port));
        }
        while self.token("|") {
            names.push(self.word().to_string());
        }
        Ok(Value::Names(names))
    }
}
