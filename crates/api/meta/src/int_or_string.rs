//! A number or a percentage, as `maxSurge` and ports of probes have it.

use crate::Value;
use crate::field::quote;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IntOrString {
    Int(i64),
    String(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    Up,
    Down,
}

impl IntOrString {
    /// `None` where the value is neither an integer nor a string.
    pub fn from_value(value: &Value) -> Option<IntOrString> {
        match value {
            Value::Int(number) => Some(IntOrString::Int(*number)),
            Value::String(text) => Some(IntOrString::String(text.to_string())),
            _ => None,
        }
    }

    /// The whole number in front of `%`, where this is a percentage.
    pub fn percent(&self) -> Option<i64> {
        match self {
            IntOrString::String(text) => text.strip_suffix('%')?.parse().ok(),
            IntOrString::Int(_) => None,
        }
    }

    /// The number itself, or the percentage of `total`.
    pub fn scaled(&self, total: i64, rounding: Rounding) -> Result<i64, String> {
        let text = match self {
            IntOrString::Int(number) => return Ok(*number),
            IntOrString::String(text) => text,
        };
        if !text.ends_with('%') {
            return Err("invalid value for IntOrString: invalid type: string is not a percentage".into());
        }
        let Some(percent) = self.percent() else {
            let digits = quote(text.trim_end_matches('%'));
            let why = format!("strconv.Atoi: parsing {digits}: invalid syntax");
            return Err(format!("invalid value for IntOrString: invalid value {}: {why}", quote(text)));
        };
        let product = percent.saturating_mul(total);
        Ok(match rounding {
            Rounding::Down => product.div_euclid(100),
            Rounding::Up => -(-product).div_euclid(100),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_both_ways() {
        let quarter = IntOrString::String("25%".into());
        assert_eq!(quarter.scaled(3, Rounding::Up), Ok(1));
        assert_eq!(quarter.scaled(3, Rounding::Down), Ok(0));
        assert_eq!(quarter.scaled(8, Rounding::Up), Ok(2));
        assert_eq!(IntOrString::Int(5).scaled(3, Rounding::Up), Ok(5));
        assert!(IntOrString::String("5".into()).scaled(3, Rounding::Up).is_err());
    }
}
