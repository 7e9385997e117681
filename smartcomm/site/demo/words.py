"""The study's shelf labels ("FRZN BAGGED VEGETABLES - PLAIN") in words for people."""

from __future__ import annotations

import re
from functools import cache

DEPARTMENTS = {
    "CHEF SHOPPE": "Prepared meals",
    "CNTRL/STORE SUP": "Store supplies",
    "DRUG GM": "Drugstore",
    "ELECT &PLUMBING": "Electrical and plumbing",
    "FROZEN GROCERY": "Frozen food",
    "GM MERCH EXP": "General merchandise",
    "MEAT-PCKGD": "Packaged meat",
    "PASTRY": "Bakery",
    "PROD-WHS SALES": "Produce",
    "SEAFOOD-PCKGD": "Packaged seafood",
    "TRAVEL & LEISURE": "Travel and leisure",
}

#: Labels that no rule below makes good, the most bought among them.
LABELS = {
    "ADULT ANALGESICS": "Pain relief",
    "ALL FAMILY CEREAL": "Family cereal",
    "ASEPTIC PACK JUICE AND DRINKS": "Juice packs",
    "BAG SNACKS": "Snacks",
    "BAKED BREAD/BUNS/ROLLS": "Bread and rolls",
    "BEANS GREEN: FS/WHL/CUT": "Green beans",
    "BEERALEMALT LIQUORS": "Beer",
    "BEERS/ALES": "Beer",
    "BUTTER SPRAY CRACKER (RITZ/CLU": "Butter crackers",
    "CANDY - CHECKLANE": "Candy bars",
    "CANDY - PACKAGED": "Candy",
    "CANDY BAGS-CHOCOCLATE": "Chocolate candy",
    "CANDY BARS (SINGLES)(INCLUDING": "Candy bar",
    "CANISTER POTATO/TORT CHIPS": "Potato chips, canister",
    "CANNED CAT FOOD (9 LIVES/FRISK": "Canned cat food",
    "CARROTS MINI PEELED": "Baby carrots",
    "CHEESE CRACKERS (CHEEZ-ITS/GOL": "Cheese crackers",
    "CHICKEN BREAST BONE IN": "Chicken breast, bone in",
    "CHICKEN BREAST BONELESS": "Chicken breast, boneless",
    "CONVENIENT BRKFST/WHLSM SNACKS": "Breakfast bars",
    "COUPON/MISC ITEMS": "Miscellaneous",
    "CRACKERS/MISC BKD FD": "Crackers",
    "DAIRY CASE 100% PURE JUICE - O": "Orange juice",
    "DAIRY CASE JUICE DRNK UNDER 10": "Juice drink",
    "DINNER MXS:DRY": "Dinner mixes",
    "DRY BN/VEG/POTATO/RICE": "Beans, potatoes and rice",
    "EGGS - X-LARGE": "Eggs, extra large",
    "FACIAL TISS/DNR NAPKIN": "Tissues and napkins",
    "FACIAL TISSUE & PAPER HANDKE": "Facial tissues",
    "FD WRAPS/BAGS/TRSH BG": "Food wraps and bags",
    "FLUID MILK PRODUCTS": "Milk",
    "FLUID MILK WHITE ONLY": "Milk",
    "FRZN BREADED PREPARED CHICK": "Breaded chicken, frozen",
    "FRZN SS PREMIUM ENTREES/DNRS/N": "Frozen entrees",
    "FRZN SS PREMIUM ENTREES/DNRS/T": "Frozen entrees",
    "FRZN VEGETABLE/VEG DSH": "Frozen vegetables",
    "GASOLINE-REG UNLEADED": "Gasoline, unleaded",
    "GRAPES RED": "Red grapes",
    "GRAPES WHITE": "White grapes",
    "GREETING CARDS/WRAP/PARTY SPLY": "Cards and party supplies",
    "HEAD LETTUCE": "Iceberg lettuce",
    "HISPANIC": "Mexican food",
    "ICE CREAM/MILK/SHERBTS": "Ice cream",
    "ISOTONIC DRINKS SINGLE SERVE": "Sports drink",
    "IWS SINGLE CHEESE": "Cheese slices",
    "MAINSTREAM WHEAT/MULTIGRAIN BR": "Wheat bread",
    "MAINSTREAM WHITE BREAD": "White bread",
    "MEXICAN SAUCESSALSAPICANTEE": "Salsa",
    "NATURAL CHEESE EXACT WT CHUNKS": "Natural cheese",
    "NATURAL CHEESE EXACT WT SLICES": "Natural cheese slices",
    "NON-CRBNTD DRNKING/MNERAL WATE": "Still water",
    "ONIONS OTHER": "Onions",
    "ONIONS SWEET (BULK&BAG)": "Sweet onions",
    "ORANGES NAVELS ALL": "Navel oranges",
    "PEPPERS GREEN BELL": "Green bell peppers",
    "PEPPERS-ALL": "Peppers",
    "PNT BTR/JELLY/JAMS": "Peanut butter and jams",
    "POTATOES RUSSET (BULK&BAG)": "Russet potatoes",
    "PWDR/CRYSTL DRNK MX": "Drink powders",
    "RAMEN NOODLES/RAMEN CUPS": "Ramen noodles",
    "RTS SOUP: CHUNKY/HOMESTYLE ET": "Ready soup",
    "SALD DRSNG/SNDWCH SPRD": "Dressings and spreads",
    "SANDWICHES&HANDHELDS": "Frozen sandwiches",
    "SEMI-SOLID SALAD DRESSING MAY": "Mayonnaise",
    "SFT DRNK 2 LITER BTL CARB INCL": "Soft drink, 2 liter bottle",
    "SFT DRNK MLT-PK BTL CARB (EXCP": "Soft drink, bottles",
    "SFT DRNK SNGL SRV BTL CARB (EX": "Soft drink, single bottle",
    "SGL SV/VEND MACH SNACKS CHIP/P": "Snack pack",
    "SNKS/CKYS/CRKR/CNDY": "Snacks and cookies",
    "SOFT DRINKS 12/18&15PK CAN CAR": "Soft drinks, pack of cans",
    "SOFT DRINKS 20PK&24PK CAN CARB": "Soft drinks, crate of cans",
    "SOUR CREAMS": "Sour cream",
    "SS ECONOMY ENTREES/DINNERS ALL": "Frozen dinner",
    "TOMATOES GRAPE": "Grape tomatoes",
    "TOMATOES HOTHOUSE ON THE VINE": "Vine tomatoes",
    "TOMATOES VINE RIPE BULK": "Tomatoes",
    "TROPICAL FRUIT": "Tropical fruit",
    "VEGETABLES - ALL OTHERS": "Vegetables",
    "VEGETABLES SALAD": "Salad vegetables",
    "WATER - CARBONATED/FLVRD DRINK": "Water",
    "YOGURT NOT MULTI-PACKS": "Yogurt",
}

#: Types that say nothing without their category: "Lean" is beef.
VAGUE = {
    "BETTER FOR YOU",
    "BLENDS",
    "CHOICE BEEF",
    "ECONOMY - MEAT",
    "ECONOMY",
    "ENHANCED",
    "ENTREES",
    "GARDEN PLUS",
    "LEAN",
    "LINKS - RAW",
    "MAINSTREAM",
    "PATTIES",
    "PREMIUM - MEAT",
    "PREMIUM",
    "PRIMAL",
    "REGULAR GARDEN",
    "REGULAR",
    "SMOKED/COOKED",
    "STICKS/ENROBED",
    "TRADITIONAL",
}

ABBREVIATIONS = {
    "bf": "beef",
    "bkd": "baked",
    "bn": "beans",
    "brkfst": "breakfast",
    "btl": "bottle",
    "btr": "butter",
    "carb": "carbonated",
    "chick": "chicken",
    "cleang": "cleaning",
    "conc": "concentrate",
    "crystl": "crystal",
    "dnr": "dinner",
    "dnrs": "dinners",
    "drnk": "drink",
    "drnkng": "drinking",
    "drnks": "drinks",
    "fd": "food",
    "fem": "feminine",
    "flvr": "flavored",
    "flvrd": "flavored",
    "frzn": "frozen",
    "gds": "goods",
    "grnd": "ground",
    "hygn": "hygiene",
    "jce": "juice",
    "mixs": "mixes",
    "mlk": "milk",
    "mnrl": "mineral",
    "mw": "microwave",
    "mxs": "mixes",
    "pckgd": "packaged",
    "pk": "pack",
    "pkg": "packaged",
    "pkgd": "packaged",
    "pkld": "pickled",
    "pnt": "peanut",
    "prep": "prepared",
    "pwdr": "powder",
    "pwdrs": "powders",
    "refrgratd": "refrigerated",
    "refrig": "refrigerated",
    "sald": "salad",
    "saus": "sausage",
    "sft": "soft",
    "sherbts": "sherbets",
    "sngl": "single",
    "spec": "special",
    "specilaty": "specialty",
    "sply": "supplies",
    "srv": "serve",
    "supppl": "supplies",
    "suppplies": "supplies",
    "sw": "sweet",
    "sweetners": "sweeteners",
    "tiss": "tissues",
    "trsh": "trash",
    "veg": "vegetables",
    "whl": "whole",
    "wtr": "water",
}


def department(label: str) -> str:
    return DEPARTMENTS.get(label) or in_words(label)


def category(label: str) -> str:
    return in_words(label)


@cache
def product(kind: str, category: str) -> str:
    """What a product is called, from its type and its category."""
    if not kind:
        return in_words(category)
    if kind in VAGUE and category:
        kind_in_words = in_words(kind).lower()
        category_in_words = in_words(category)
        if kind_in_words.split()[-1] in category_in_words.lower():
            return in_words(kind)
        return f"{category_in_words}, {kind_in_words}"
    return in_words(kind)


@cache
def in_words(label: str) -> str:
    """A label in sentence case, without brackets, its abbreviations written out."""
    if label in LABELS:
        return LABELS[label]
    text = re.sub(r"\(.*", "", label.lower())
    text = re.sub(r"[/&]", " and ", text)
    text = re.sub(r"\s*[:\-]\s+|:|-\s*$", ", ", text)
    text = re.sub(r"[a-z]+", lambda word: ABBREVIATIONS.get(word[0], word[0]), text)
    text = re.sub(r"\s+", " ", text).replace(" ,", ",").strip(" ,.")
    return text[:1].upper() + text[1:] if text else label
