"""Units behind numbers: whether some letters are one, and how many of one make one of another."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from rewards.answers.spelling import folded

if TYPE_CHECKING:
    from pint import UnitRegistry

_SYMBOLS = frozenset([
    "nm", "µm", "μm", "um", "mm", "cm", "dm", "m", "km", "in", "inch", "inches", "ft", "foot", "feet", "yd", "yard", "yards", "mi", "mile",
    "miles", "mm2", "cm2", "m2", "km2", "mm3", "cm3", "m3", "acre", "acres", "hectare", "hectares", "ha", "ng", "µg", "μg", "mcg", "ug", "mg",
    "g", "kg", "gram", "grams", "kilogram", "kilograms", "milligram", "milligrams", "t", "ton", "tons", "tonne", "tonnes", "lb", "lbs", "oz",
    "ounce", "ounces", "pound", "pounds", "µl", "μl", "ul", "ml", "mL", "cl", "dl", "dL", "l", "L", "liter", "liters", "litre", "litres",
    "milliliter", "milliliters", "gal", "gallon", "gallons", "pint", "pints", "cup", "cups", "cc", "ms", "s", "sec", "secs", "second",
    "seconds", "min", "mins", "minute", "minutes", "h", "hr", "hrs", "hour", "hours", "day", "days", "week", "weeks", "month", "months", "year",
    "years", "yr", "yrs", "mph", "kmh", "km/h", "kph", "knot", "knots", "rpm", "hz", "Hz", "kHz", "MHz", "GHz", "J", "kJ", "cal", "kcal",
    "calorie", "calories", "W", "kW", "MW", "kWh", "V", "mV", "kV", "A", "mA", "N", "kN", "Pa", "kPa", "MPa", "bar", "atm", "mmHg", "psi", "K",
    "C", "F", "°C", "°F", "°K", "°", "degree", "degrees", "celsius", "fahrenheit", "kelvin", "rad", "radian", "radians", "mol", "mmol", "µmol",
    "nmol", "M", "mM", "IU", "U", "mEq", "Ω", "ohm", "ohms", "kΩ", "F", "T", "lm", "lx", "cd", "Bq", "Gy", "Sv", "eV", "keV", "MeV", "bit",
    "bits", "byte", "bytes", "kB", "KB", "MB", "GB", "TB", "meter", "meters", "metre", "metres", "kilometer", "kilometers", "kilometre",
    "kilometres", "centimeter", "centimeters", "centimetre", "centimetres", "millimeter", "millimeters", "millimetre", "millimetres",
])  # fmt: skip
_WORDS_OF_UNITS = frozenset(["per", "square", "cubic", "sq", "cu"])
_BESIDE = re.compile(r"\s+(?:old|long|tall|wide|high|deep|thick|away|apart|each|(?:in )?total|in all)$")
"""Words behind a unit that do not change it."""
_NO_UNITS = frozenset([
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december", "am", "pm", "a.m", "p.m",
    "st", "nd", "rd", "th", "and", "or", "to", "x", "of", "is", "out", "by", "from", "until",
])  # fmt: skip
_TOKENS = re.compile(r"[\s/*·^.()-]+|\\cdot|\d+")
_OTHER_NUMBER = re.compile(r"(?<![\^\w-])\d|\d{2}|\*\*|\d\s+\d")
"""A number that is no power: `3 hours 30 minutes` and `3 in 10` are no numbers with a unit."""
_POWER = re.compile(r"\^\{?(-?\d)\}?")
_CJK_UNIT = re.compile("[\u3400-\u9fff]{1,4}")
_CURRENCIES = {
    "¢": "cent", "cent": "cent", "$": "usd", "us$": "usd", "usd": "usd", "dollar": "usd", "美元": "usd", "€": "eur", "eur": "eur", "euro": "eur", "欧元": "eur",
    "£": "gbp", "gbp": "gbp", "pounds sterling": "gbp", "¥": "cny", "cny": "cny", "rmb": "cny", "yuan": "cny", "元": "cny", "块": "cny",
    "人民币": "cny", "jpy": "jpy", "yen": "jpy", "日元": "jpy", "₹": "inr", "inr": "inr", "rupee": "inr", "₩": "krw", "₽": "rub", "฿": "thb",
}  # fmt: skip
_CHINESE = {
    "毫米": "mm", "厘米": "cm", "分米": "dm", "米": "m", "千米": "km", "公里": "km", "平方米": "m^2", "平方厘米": "cm^2", "立方米": "m^3", "立方厘米": "cm^3",
    "微克": "ug", "毫克": "mg", "克": "g", "千克": "kg", "公斤": "kg", "吨": "tonne", "毫升": "ml", "升": "l", "秒": "s", "分钟": "min", "分": "min",
    "小时": "hour", "天": "day", "日": "day", "周": "week", "星期": "week", "年": "year", "度": "degree", "摄氏度": "degC",
}  # fmt: skip
_FOR_PINT = {
    "°c": "degC", "°f": "degF", "°k": "kelvin", "°": "degree", "c": "degC", "f": "degF", "celsius": "degC", "fahrenheit": "degF", "mcg": "ug",
    "μg": "ug", "kmh": "km/hour", "kph": "km/hour", "sec": "second", "min": "minute", "hr": "hour", "h": "hour", "yr": "year", "inches": "inch",
    "feet": "foot", "cc": "cm^3",
}  # fmt: skip
_SHORT_PLURALS = frozenset(["hrs", "mins", "secs", "lbs", "yrs", "days", "tons", "cups"])
_SQUARED = re.compile(r"\b(square|sq|cubic|cu)\s+(\w+)")
_DIGIT_POWER = re.compile(r"\b([a-zA-Z]+)([23])\b")


def currency(text: str) -> str:
    """The code of a currency's sign or name; "" if it is none. A plural counts."""
    word = text.strip().rstrip(".").lower()
    return _CURRENCIES.get(word) or _CURRENCIES.get(word.removesuffix("s"), "")


def is_unit(text: str, attached: bool) -> bool:
    """Tell whether the text behind a number is its unit.

    Known are symbols and names of units, with powers and `per`, and Chinese ones. Another single word counts as what is counted (`3 apples`)
    if a space comes before it.

    Args:
        attached: no space is between the number and the text. Then `2x` and `3ab` are products, and `3rd` and `2nd` are ordinals.
    """
    text = _POWER.sub(r"^\1", _BESIDE.sub("", text.strip().rstrip(".")))
    if _OTHER_NUMBER.search(text):
        return False
    tokens = [token for token in _TOKENS.split(text) if token]
    if not tokens or text.lower() in _NO_UNITS or any(token.lower() in _NO_UNITS for token in tokens):
        return False
    if currency(text) or _CJK_UNIT.fullmatch(text):
        return True
    if all(token in _SYMBOLS or token in _WORDS_OF_UNITS for token in tokens):
        return not attached or len(text) > 1 or text == "°"
    return not attached and text.isalpha() and text.isascii() and len(text) > 2


def converted(value: float, unit: str, other: str) -> float | None:
    """Convert a number of `unit` to one of `other`. It stays as it is if both are the same, or if one of them is not given; None if they differ in kind."""
    if not unit or not other:
        return value
    a, b = _spelled(unit), _spelled(other)
    if a == b:
        return value
    if currency(unit) or currency(other):
        return value if currency(unit) == currency(other) else None
    if not is_unit(a, attached=False) or not is_unit(b, attached=False):
        return None
    try:
        return float(_registry().Quantity(value, _for_pint(a)).to(_for_pint(b)).magnitude)
    except Exception:  # pint raises a dozen types for words that are no units, and for units of another dimension
        return None


def _spelled(unit: str) -> str:
    """One spelling of a unit: singular, without a full stop, and long names in lower case. Symbols keep theirs: mg is not Mg."""
    unit = _POWER.sub(r"^\1", _BESIDE.sub("", unit.strip().rstrip(".")))
    unit = _CHINESE.get(unit, unit)
    if len(unit) > 4 and unit.isalpha():
        unit = folded(unit)
        return unit if unit.endswith(("ss", "us")) else unit.removesuffix("s")
    return unit.removesuffix("s") if unit in _SHORT_PLURALS else unit


@lru_cache(maxsize=1024)
def _for_pint(unit: str) -> str:
    """Write a unit as pint reads it: `square feet` as foot**2, `m s^-1` as m*s**-1."""
    unit = _SQUARED.sub(lambda found: f"{found[2]}^{2 if found[1].startswith('sq') else 3}", unit.replace("·", "*"))
    unit = _DIGIT_POWER.sub(r"\1^\2", unit).replace(" per ", "/")
    unit = re.sub(r"[a-zA-Zµμ°]+", lambda found: _FOR_PINT.get(found[0].lower(), found[0]), unit)
    return re.sub(r"\s*([*/])\s*|\s+", lambda found: found[1] or "*", unit).replace("^", "**")


@lru_cache(maxsize=1)
def _registry() -> UnitRegistry[float]:
    """Make pint's registry, which takes a quarter of a second. Most golds have no unit."""
    from pint import UnitRegistry

    return UnitRegistry()
