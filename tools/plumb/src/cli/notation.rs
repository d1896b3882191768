//! Times, shares and contracts as they are typed.

use std::time::Duration;

use plumb_net::Contract;

/// A time with its unit: `250us`, `4ms`, `1s`, `1.5ms`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time: write a number and ns, us, ms or s, as in 250us");
    let split = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let scale: u64 = match unit {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.len() <= 9 && text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return Err(wrong());
    }
    let parse =
        |text: &str| if text.is_empty() { Ok(0) } else { text.parse::<u64>().map_err(|_| wrong()) };
    let parts = parse(fraction)? * scale / 10u64.pow(fraction.len() as u32);
    Ok(Duration::from_nanos(parse(whole)? * scale + parts))
}

/// A time of no more than `max`.
pub(super) fn at_most(text: &str, max: Duration) -> Result<Duration, String> {
    match duration(text)? {
        time if time <= max => Ok(time),
        _ => Err(format!("`{text}` is too long: give at most {}ms", max.as_millis())),
    }
}

/// A share of all, as in `0.5%`, in parts per million.
pub(super) fn share_ppm(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    match number.parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok((percent * 10_000.0).round() as u32),
        _ => Err("a share of all is needed, as in `0.5%`".to_string()),
    }
}

/// A contract: `4ms/100ms` (slice and period), `4ms/100ms/20ms` (and a deadline), with `+slack` or as
/// `slack` alone; `slack*3` has the weight 3.
pub fn contract(text: &str) -> Result<Contract, String> {
    let (rest, weight) = text.split_once('*').unwrap_or((text, "1"));
    let no_weight = |_| format!("`{weight}` is no weight: give a number from 1 to 255");
    let weight = weight.parse::<std::num::NonZeroU8>().map_err(no_weight)?.get();
    if rest == "slack" {
        return Ok(Contract { weight, ..Contract::BEST_EFFORT });
    }
    let (share, slack) = rest.strip_suffix("+slack").map_or((rest, false), |share| (share, true));
    let (slice, rest) = share
        .split_once('/')
        .ok_or_else(|| format!("`{text}` is no contract: write slice/period, as in 4ms/100ms or 4ms/100ms+slack, or slack"))?;
    let (period, deadline) = rest.split_once('/').unwrap_or((rest, rest));
    let ns = |text| duration(text).map(|time| time.as_nanos() as u64);
    let (slice, period, deadline) = (ns(slice)?, ns(period)?, ns(deadline)?);
    let contract =
        Contract { slice_ns: slice, period_ns: period, deadline_ns: deadline, slack, weight };
    contract.validated().map_err(|error| error.to_string())
}

/// A contract as [`contract`] reads it.
pub fn contract_argument(contract: &Contract) -> String {
    let slack = if contract.slack { "+slack" } else { "" };
    let Contract { slice_ns, period_ns, deadline_ns, weight, .. } = contract;
    format!("{slice_ns}ns/{period_ns}ns/{deadline_ns}ns{slack}*{weight}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contracts_read_as_they_are_written() {
        for text in [
            "4ms/100ms",
            "1.5ms/20ms",
            "4ms/100ms+slack",
            "slack",
            "250us/1ms",
            "1ms/9ms/2ms",
            "0ms/50ms+slack",
            "slack*7",
            "4ms/100ms+slack*255",
        ] {
            let read = contract(text).unwrap();
            assert_eq!(contract(&contract_argument(&read)), Ok(read), "{text}");
        }
        assert_eq!(contract("0ms/100ms+slack"), Ok(Contract::BEST_EFFORT));
        assert!(contract("0ms/100ms").unwrap_err().contains("neither a slice nor slack"));
        for bad in ["slack*0", "slack*256", "slack*", "4ms/100ms*x"] {
            assert!(contract(bad).unwrap_err().contains("from 1 to 255"), "{bad}");
        }
        for bad in
            ["4ms", "4/100", "5ms/4ms", "0ms/4ms", "4ms/2s", "x/y", "-1ms/4ms", "4ms/100ms+more"]
        {
            assert!(contract(bad).is_err(), "{bad}");
        }
    }
}
