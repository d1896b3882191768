//! The part of Python that assertions need: `assert` of comparisons, assignments, and `print`, which is
//! ignored.

use std::collections::HashMap;

use crate::info::{INFINITE_THRESHOLD, Information};

/// Variables that code has assigned so far.
pub(crate) type Variables = HashMap<String, i64>;

/// Names that are not values of a connection.
const CONSTANTS: [(&str, i64); 21] = [
    ("TCP_ESTABLISHED", 1),
    ("TCP_SYN_SENT", 2),
    ("TCP_SYN_RECV", 3),
    ("TCP_FIN_WAIT1", 4),
    ("TCP_FIN_WAIT2", 5),
    ("TCP_TIME_WAIT", 6),
    ("TCP_CLOSE", 7),
    ("TCP_CLOSE_WAIT", 8),
    ("TCP_LAST_ACK", 9),
    ("TCP_LISTEN", 10),
    ("TCP_CLOSING", 11),
    ("TCP_CA_Open", 0),
    ("TCP_CA_Disorder", 1),
    ("TCP_CA_CWR", 2),
    ("TCP_CA_Recovery", 3),
    ("TCP_CA_Loss", 4),
    ("TCPI_OPT_TIMESTAMPS", 1),
    ("TCPI_OPT_SACK", 2),
    ("TCPI_OPT_WSCALE", 4),
    ("TCPI_OPT_ECN", 8),
    ("TCP_INFINITE_SSTHRESH", INFINITE_THRESHOLD as i64),
];

/// Runs `code`; says which statement does not hold, or makes no sense.
pub(crate) fn run(code: &str, info: &Information, variables: &mut Variables) -> Result<(), String> {
    for statement in code.split(['\n', ';']).map(str::trim) {
        if statement.is_empty() || statement.starts_with('#') || statement.starts_with("print") {
            continue;
        }
        let tokens = tokens(statement)?;
        let mut reader = Reader { tokens: &tokens, info, variables };
        match reader.statement() {
            Ok(true) => {}
            Ok(false) => {
                let values: Vec<String> = tokens
                    .iter()
                    .filter_map(|token| Some(format!("{token} is {}", info.get(token)?)))
                    .collect();
                return Err(format!("`{statement}` does not hold: {}", values.join(", ")));
            }
            Err(problem) => return Err(format!("`{statement}`: {problem}")),
        }
    }
    Ok(())
}

fn tokens(statement: &str) -> Result<Vec<String>, String> {
    let mut tokens = Vec::new();
    let mut rest = statement.trim_start();
    while let Some(first) = rest.chars().next() {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = if word(first) {
            rest.find(|c| !word(c)).unwrap_or(rest.len())
        } else if first == '\'' || first == '"' {
            // What an assertion would print.
            rest[1..].find(first).map_or(rest.len(), |end| end + 2)
        } else if ["==", "!=", "<=", ">=", "+=", "-=", "//"].iter().any(|two| rest.starts_with(two))
        {
            2
        } else if "<>=()+-*/&|%,".contains(first) {
            1
        } else {
            return Err(format!("`{first}` is not understood"));
        };
        tokens.push(rest[..end].to_string());
        rest = rest[end..].trim_start();
    }
    Ok(tokens)
}

struct Reader<'a> {
    tokens: &'a [String],
    info: &'a Information,
    variables: &'a mut Variables,
}

impl Reader<'_> {
    fn peek(&self) -> &str {
        self.tokens.first().map_or("", String::as_str)
    }

    fn eat(&mut self, token: &str) -> bool {
        let next = self.peek() == token;
        if next {
            self.tokens = &self.tokens[1..];
        }
        next
    }

    fn statement(&mut self) -> Result<bool, String> {
        if self.eat("assert") {
            let holds = self.condition()?;
            return match self.peek() {
                "" | "," => Ok(holds),
                other => Err(format!("`{other}` is not understood")),
            };
        }
        let name = self.peek().to_string();
        self.tokens = self.tokens.get(1..).unwrap_or(&[]);
        let operator = self.peek().to_string();
        self.tokens = self.tokens.get(1..).unwrap_or(&[]);
        let value = self.sum()?;
        let old = self.variables.get(&name).copied();
        let new = match (operator.as_str(), old) {
            ("=", _) => value,
            ("+=", Some(old)) => old + value,
            ("-=", Some(old)) => old - value,
            _ => return Err("neither an assertion nor an assignment".to_string()),
        };
        self.variables.insert(name, new);
        Ok(true)
    }

    fn condition(&mut self) -> Result<bool, String> {
        let mut holds = self.comparison()?;
        loop {
            if self.eat("and") {
                holds &= self.comparison()?;
            } else if self.eat("or") {
                holds |= self.comparison()?;
            } else {
                return Ok(holds);
            }
        }
    }

    /// One value, or several in a chain, as `1 <= x < 3`.
    fn comparison(&mut self) -> Result<bool, String> {
        let mut left = self.sum()?;
        let (mut holds, mut compared) = (true, false);
        loop {
            let operator = self.peek().to_string();
            if !["==", "!=", "<", ">", "<=", ">="].contains(&operator.as_str()) {
                return Ok(if compared { holds } else { left != 0 });
            }
            self.eat(&operator);
            let right = self.sum()?;
            holds &= match operator.as_str() {
                "==" => left == right,
                "!=" => left != right,
                "<" => left < right,
                ">" => left > right,
                "<=" => left <= right,
                _ => left >= right,
            };
            (left, compared) = (right, true);
        }
    }

    fn sum(&mut self) -> Result<i64, String> {
        let mut value = self.term()?;
        loop {
            let operator = self.peek().to_string();
            if !["+", "-", "*", "/", "//", "&", "|"].contains(&operator.as_str()) {
                return Ok(value);
            }
            self.eat(&operator);
            let right = self.term()?;
            value = match operator.as_str() {
                "+" => value + right,
                "-" => value - right,
                "*" => value * right,
                "&" => value & right,
                "|" => value | right,
                _ => value.checked_div(right).ok_or("a division by nothing")?,
            };
        }
    }

    fn term(&mut self) -> Result<i64, String> {
        if self.eat("(") {
            let value = self.sum()?;
            return if self.eat(")") { Ok(value) } else { Err("`)` is missing".to_string()) };
        }
        let token = self.peek().to_string();
        self.tokens = self.tokens.get(1..).unwrap_or(&[]);
        if let Ok(number) = token.parse() {
            return Ok(number);
        }
        let constant = CONSTANTS.iter().find(|(name, _)| *name == token).map(|(_, value)| *value);
        constant
            .or_else(|| self.variables.get(&token).copied())
            .or_else(|| self.info.get(&token).map(|value| value as i64))
            .ok_or_else(|| format!("nobody knows `{token}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: &str) -> Result<(), String> {
        let info = Information { snd_cwnd: 10, options: 3, ..Information::default() };
        run(code, &info, &mut Variables::new())
    }

    #[test]
    fn what_holds_holds_and_what_does_not_is_named() {
        check("assert tcpi_snd_cwnd == 10, tcpi_snd_cwnd").unwrap();
        check("assert 5 <= tcpi_snd_cwnd < 11 and (tcpi_options & TCPI_OPT_SACK) != 0").unwrap();
        check("cwnd = 9; cwnd += 1\nassert tcpi_snd_cwnd == cwnd, 'cwnd=%d' % cwnd").unwrap();
        let problem = check("assert tcpi_snd_cwnd == 11").unwrap_err();
        assert!(problem.contains("tcpi_snd_cwnd is 10"), "{problem}");
        assert!(check("assert tcpi_nonsense == 1").unwrap_err().contains("nobody knows"));
        assert!(check("import os").is_err());
    }
}
