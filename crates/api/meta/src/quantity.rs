//! Amounts of resources: `500m`, `1.5Gi`, `2e3`. Fixed-point in billionths, which is Kubernetes' own resolution, so sums
//! and comparisons are exact. Source of parsing, rounding and the canonical form: `apimachinery/pkg/api/resource`.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::Value;

const NANO: i128 = 1_000_000_000;
/// The greatest amount with a binary suffix; greater ones are cut to it.
const BINARY_MAX: i128 = i64::MAX as i128 * NANO;

/// How an amount was written and is written back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    DecimalSi,
    BinarySi,
    DecimalExponent,
}

/// An amount. Compared by value alone: `1Ki` equals `1024`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Form,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi };

    pub fn from_units(units: i64, format: Format) -> Quantity {
        Quantity { nanos: i128::from(units) * NANO, format }
    }

    pub fn from_nanos(nanos: i64) -> Quantity {
        Quantity { nanos: i128::from(nanos), format: Format::DecimalSi }
    }

    pub fn from_milli(milli: i64) -> Quantity {
        Quantity { nanos: i128::from(milli) * 1_000_000, format: Format::DecimalSi }
    }

    /// From a tree: a string, or a bare number as YAML allows it.
    pub fn from_value(value: &Value) -> Result<Quantity, QuantityError> {
        match value {
            Value::String(text) => text.trim().parse(),
            Value::Int(number) => Ok(Quantity::from_units(*number, Format::DecimalSi)),
            Value::Float(number) => number.to_string().parse(),
            Value::Null => Ok(Quantity::ZERO),
            _ => Err(QuantityError::Form),
        }
    }

    /// Whole units, rounded away from zero: bytes of memory, whole cores.
    pub fn units(&self) -> i64 {
        self.scaled(NANO)
    }

    /// Thousandths, rounded away from zero: millicores.
    pub fn milli(&self) -> i64 {
        self.scaled(1_000_000)
    }

    /// Billionths, exactly.
    pub fn nanos(&self) -> i128 {
        self.nanos
    }

    /// The least amount of whole units that is not smaller in size.
    pub fn whole(self) -> Quantity {
        let over = self.nanos % NANO;
        Quantity { nanos: (self.nanos - over).saturating_add(over.signum() * NANO), ..self }
    }

    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    pub fn format(&self) -> Format {
        self.format
    }

    /// The sum, written as this amount was; a zero takes the other's format.
    pub fn plus(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_add(other.nanos), format }
    }

    /// The difference, written as this amount was; a zero takes the other's format.
    pub fn minus(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_sub(other.nanos), format }
    }

    fn scaled(&self, step: i128) -> i64 {
        let rounded = self.nanos / step + (self.nanos % step).signum();
        i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Quantity, QuantityError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
            None => return Err(QuantityError::Form),
        };
        let digits_end = unsigned.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(unsigned.len());
        let (whole, rest) = unsigned.split_at(digits_end);
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at(rest.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len())),
            None => ("", rest),
        };
        check_suffix(suffix)?;
        let scale = Scale::parse(suffix)?;
        let nanos = scale.apply(whole, fraction)?;
        let mut format = scale.format;
        if format == Format::BinarySi && nanos > 0 && nanos < NANO {
            format = Format::DecimalSi;
        }
        Ok(Quantity { nanos: if negative { -nanos } else { nanos }, format })
    }
}

/// Letters, one sign, digits: anything else does not match the expression.
fn check_suffix(suffix: &str) -> Result<(), QuantityError> {
    let rest = suffix.trim_start_matches(|letter| "eEinumkKMGTP".contains(letter));
    let rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
    if rest.bytes().all(|byte| byte.is_ascii_digit()) { Ok(()) } else { Err(QuantityError::Form) }
}

/// What a suffix multiplies by.
struct Scale {
    tens: i32,
    twos: u32,
    format: Format,
}

impl Scale {
    fn parse(suffix: &str) -> Result<Scale, QuantityError> {
        let decimal = |tens| Ok(Scale { tens, twos: 0, format: Format::DecimalSi });
        let binary = |twos| Ok(Scale { tens: 0, twos, format: Format::BinarySi });
        match suffix {
            "n" => decimal(-9),
            "u" => decimal(-6),
            "m" => decimal(-3),
            "" => decimal(0),
            "k" => decimal(3),
            "M" => decimal(6),
            "G" => decimal(9),
            "T" => decimal(12),
            "P" => decimal(15),
            "E" => decimal(18),
            "Ki" => binary(10),
            "Mi" => binary(20),
            "Gi" => binary(30),
            "Ti" => binary(40),
            "Pi" => binary(50),
            "Ei" => binary(60),
            _ => {
                let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
                let tens = exponent.parse().map_err(|_| QuantityError::Suffix)?;
                Ok(Scale { tens, twos: 0, format: Format::DecimalExponent })
            }
        }
    }

    /// The amount in billionths; what is finer is rounded up.
    fn apply(&self, whole: &str, fraction: &str) -> Result<i128, QuantityError> {
        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        let digits = format!("{whole}{fraction}");
        if digits.bytes().all(|byte| byte == b'0') {
            return Ok(0);
        }
        let cut = if self.format == Format::BinarySi { Ok(BINARY_MAX) } else { Err(QuantityError::Numeric) };
        let Ok(mantissa) = digits.parse::<i128>() else { return cut };
        let Some(mantissa) = mantissa.checked_mul(1 << self.twos) else { return cut };
        let places = i64::try_from(fraction.len()).map_err(|_| QuantityError::Numeric)?;
        let tens = i64::from(self.tens) + 9 - places;
        let power = u32::try_from(tens.unsigned_abs()).ok().and_then(|exponent| 10i128.checked_pow(exponent));
        let nanos = match (tens >= 0, power) {
            (true, Some(power)) => mantissa.checked_mul(power),
            (true, None) => None,
            (false, Some(power)) => Some(mantissa / power + (mantissa % power).signum()),
            (false, None) => Some(1),
        };
        match nanos {
            Some(nanos) if self.format == Format::BinarySi => Ok(nanos.min(BINARY_MAX)),
            Some(nanos) => Ok(nanos),
            None => cut,
        }
    }
}

/// The canonical form: no fraction, the greatest suffix that keeps the value exact.
impl fmt::Display for Quantity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return formatter.write_str("0");
        }
        let is_binary = self.format == Format::BinarySi && self.nanos % NANO == 0 && self.nanos.abs() >= 1024 * NANO;
        if is_binary {
            let (mut mantissa, mut step) = (self.nanos / NANO, 0);
            while mantissa % 1024 == 0 && step < 6 {
                mantissa /= 1024;
                step += 1;
            }
            return write!(formatter, "{mantissa}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][step]);
        }
        let as_exponent = self.format == Format::DecimalExponent;
        let (mut mantissa, mut exponent) = (self.nanos, -9);
        while mantissa % 1000 == 0 && (as_exponent || exponent < 18) {
            mantissa /= 1000;
            exponent += 3;
        }
        match (as_exponent, exponent) {
            (_, 0) => write!(formatter, "{mantissa}"),
            (true, _) => write!(formatter, "{mantissa}e{exponent}"),
            (false, _) => {
                let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][(exponent as usize).wrapping_add(9) / 3];
                write!(formatter, "{mantissa}{suffix}")
            }
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantity(text: &str) -> Quantity {
        text.parse().unwrap()
    }

    #[test]
    fn the_canonical_form_is_upstreams() {
        let cases = [
            ("0", "0"),
            ("0m", "0"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("0.5Ki", "512"),
            ("100Ki", "100Ki"),
            ("1023Ki", "1023Ki"),
            ("1e3", "1e3"),
            ("12E", "12E"),
            ("100000", "100k"),
            ("123456", "123456"),
            ("-1500m", "-1500m"),
            ("0.0000000001", "1n"),
            ("9223372036854775807Ki", "9223372036854775807"),
            (".5", "500m"),
            ("1.", "1"),
            ("1.0001", "1000100u"),
        ];
        for (given, shown) in cases {
            assert_eq!(quantity(given).to_string(), shown, "{given}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        assert_eq!("".parse::<Quantity>(), Err(QuantityError::Form));
        assert_eq!("1.1.1".parse::<Quantity>(), Err(QuantityError::Form));
        assert_eq!("1Mii".parse::<Quantity>(), Err(QuantityError::Suffix));
        assert_eq!("10x".parse::<Quantity>(), Err(QuantityError::Form));
    }

    #[test]
    fn sums_and_scales_are_exact() {
        assert_eq!(quantity("100m").plus(quantity("0.9")), quantity("1"));
        assert_eq!(quantity("1Gi").minus(quantity("1Mi")).to_string(), "1023Mi");
        assert_eq!(quantity("100u").milli(), 1);
        assert_eq!(quantity("1Gi").units(), 1 << 30);
        assert!(quantity("1Ki") > quantity("1k"));
        for (given, whole) in [("1500m", "2"), ("2", "2"), ("-1500m", "-2"), ("0", "0"), ("1Gi", "1Gi")] {
            assert_eq!(quantity(given).whole().to_string(), whole);
        }
    }
}
