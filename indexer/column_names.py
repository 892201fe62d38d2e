"""What the name of a table's column says it holds, in words of English, German, Spanish and French.

A name is evidence, not proof: a draft writes down what it took a name for, and people check it.
"""

from __future__ import annotations

import re
import unicodedata
from enum import StrEnum

from cxrsearch.clinical.fields import PER_YEAR

_NUMBER_OF = r"(id|ids|nr|no|num|number|nummer|numero|codigo|code|key|identifier|uid|kennung)"
_PEOPLE = (
    r"(patient|patienten|patientin|pat|paciente|paziente|subject|proband|probanden|person|persona|participant|case|fall"
    r"|individual)"
)


class Role(StrEnum):
    """What a column is for. The last ones are left out of an index."""

    PATIENT = "patient"
    STUDY = "study"
    VIEW = "view"
    SITE = "site"
    AGE = "age"
    SEX = "sex"
    FINDING = "finding"
    STUDY_DATE = "study_date"
    OUTCOME = "outcome"
    NAME = "names"
    BIRTH = "birth dates"
    CONTACT = "addresses and contacts"
    STAFF = "names of staff"
    NUMBER = "numbers of persons or documents"
    FREE_TEXT = "free text"


LEFT_OUT = frozenset({Role.NAME, Role.BIRTH, Role.CONTACT, Role.STAFF, Role.NUMBER, Role.FREE_TEXT})
# In order: the first that fits a name, folded to small letters and words between single spaces.
_PATTERNS: tuple[tuple[Role, str], ...] = (
    (Role.BIRTH, r".*\b(birth\w*|born|[dy]ob|geburt\w*|geb|geb(dat|jahr)\w*|naissance|ddn|nascita)\b.*"),
    (Role.BIRTH, r".*\b(nacimiento|f(ec|echa)? ?(de )?nac|jahrgang)\b.*"),
    (Role.CONTACT, r".*\b(addr\w*|adresse|anschrift|street|strasse|phone\w*|tel|telefon\w*|mobile|e ?mail\w*).*"),
    (Role.CONTACT, r".*\b(direccion|domicilio|celular|movil|handy|fax|correo|codigo postal|postleitzahl)\b.*"),
    (Role.CONTACT, r"ort|city|town|ciudad|ville"),
    (Role.CONTACT, r".*\b(zip|zipcode|post ?code|postal ?code|plz|wohnort|home ?town)\b.*"),
    (Role.NUMBER, r".*\b(ssn|nhs|passport|iban|insurance|versicher\w*|krankenkasse\w*|social security)\b.*"),
    (Role.NUMBER, r".*\b(dni|nif|curp|nss|kv ?nr|sv ?nr|ausweis\w*|seguridad social)\b.*"),
    (Role.STAFF, r".*\b(physician|doctor|radiologist|referr\w+|arzt|aerztin|operator|technician|zuweiser|nurse)\b.*"),
    (Role.STAFF, r".*\b(medic[oa]|medecin|radiolog(o|a|in|ue)|befunder(in)?|untersucher(in)?|ueberweiser)\b.*"),
    (Role.PATIENT, r"nhc|ipp|uhid|mr ?(no|nr)|(numero (de )?)?historia( clinica)?|hosp(ital)? ?(no|nr|number|id)"),
    (Role.PATIENT, rf"{_NUMBER_OF} (de |del |du |des |der )?{_PEOPLE}"),
    (Role.PATIENT, rf"{_PEOPLE}|({_PEOPLE} ?{_NUMBER_OF})|mrn|pid|medical record number|record {_NUMBER_OF}"),
    (Role.STUDY, rf"accession( ?{_NUMBER_OF})?|(study|exam|examination|untersuchungs?)( instance)? ?{_NUMBER_OF}"),
    (Role.NAME, r"(.*\b)?(patient(en)?|pat|vor|nach|familien)? ?name[ns]?( (of|des|der))?( \w+)?"),
    (Role.NAME, r"(.*\b)?(sur|first|last|middle|given|family|full)name[ns]?( \w+)?"),
    (Role.NAME, r".*\b(surname|firstname|lastname|vorname|nachname|familienname|prenom|nom|apellidos?|nombres?)\b.*"),
    (Role.NAME, r"initial(s|en|es)|iniciales|kuerzel|titular|pname"),
    (Role.FREE_TEXT, r".*\b(notes?|comments?|remarks?|bemerkung\w*|kommentar\w*|free ?text|freitext)\b.*"),
    (Role.FREE_TEXT, r".*\b(anmerkung\w*|anamnes\w*|observacion\w*|comentarios?|commentaires?|remarques?)\b.*"),
    (
        Role.STUDY_DATE,
        r"((study|exam|examination|acquisition|image|x ?ray|scan|visit) )?(date|datum)( of (study|exam))?",
    ),
    (Role.STUDY_DATE, r"(untersuchungs|aufnahme|studien|bild)(datum|tag)|studydate|examdate|datetime"),
    (Role.VIEW, r"(x ?ray )?(view|view ?position|projection|projektion|ansicht|strahlengang)"),
    (Role.SITE, r"(hospital|site|cent(er|re)|institution|klinik|krankenhaus|standort|clinic|location)( name)?"),
    (Role.AGE, r"((patient|pat) ?)?(age|alter|edad)( (at|in|bei|al|en) .*| years| jahre| anos| ans)?"),
    (Role.AGE, r"(age|edad) (de |du |del )?(patient|paciente)"),
    (Role.SEX, r"((patient|pat) ?)?(sex|gender|geschlecht)"),
    (Role.FINDING, r"(image |x ?ray )?(findings?|labels?|finding labels?|diagnos\w+|pathology|befunde?|class)"),
)
_OUTCOME = re.compile(
    r".*\b(outcomes?|surviv\w*|died|death\w*|dead|deceased|mortal\w*|icu|intensiv\w*|(in|ex)tubat\w*|ventilat\w*|beatm\w*"
    r"|discharg\w*|entlass\w*|verstorb\w*|tod\w*|gestorben|length of stay|los|liegedauer|readmi\w*|relapse|ecmo"
    r"|recover\w*|supplemental|ausgang|verlauf|ueberlebt)\b.*"
)
# What has a name without being a person.
_THINGS = re.compile(
    r".*\b(file|image|bild|datei|scan|site|hospital|cent(er|re)|device|study|series|column|drug|model|archivo|imagen|fichier)\b.*"
)
_ID = re.compile(rf"(.* )?({_NUMBER_OF}|\w+(nummer|nr|number|numero))|#")
# A word that names an age, "Altersgruppe" too, and how many of another unit than years are in a year.
_AGE = re.compile(r"(patient|pat)?ages?|edad(es)?|alter|alters\w*|(lebens|patienten?)alter\w*")
_IN_A_YEAR = (
    (r"mo|months?|monate?n?|mes(?:es)?|mois", PER_YEAR["M"]),
    (r"wk|weeks?|wochen?|semanas?|semaines?", PER_YEAR["W"]),
    (r"days?|tage?n?|dias?|jours?", PER_YEAR["D"]),
)
_UNIT = re.compile(r"(.+?)\s*[(\[]([^()\[\]]{1,15})[)\]]")
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"})


def role_of(column: str) -> Role | None:
    """What a column is for by its name alone; None where the name does not say."""
    name = _folded(without_unit(column))
    for role, pattern in _PATTERNS:
        if re.fullmatch(pattern, name) and not (role is Role.NAME and _THINGS.fullmatch(name)):
            return role
    return Role.OUTCOME if is_outcome(column) else None


def is_outcome(column: str) -> bool:
    """Whether a column tells what became known after the image was taken."""
    return _OUTCOME.fullmatch(_folded(column)) is not None


def age_units(column: str) -> float | None:
    """How many of the units that an age is given in are in a year; None for a column whose name names no age.

    "Age at day of exam" is in years, and "age in days" in days.
    """
    name = _folded(column)
    if re.search(r"\bage adjusted\b|\bfor age\b", name) or not any(map(_AGE.fullmatch, name.split())):
        return None
    for unit, number in _IN_A_YEAR:
        behind = rf"(.* )?({_AGE.pattern}|in|en) ({unit})( .*)?|({unit}) of age"
        last = rf".*[a-z](?<!\bat)(?<!\bam)(?<!\bbei) ({unit})"
        if re.fullmatch(rf"{behind}|{last}", name):
            return number
    return 1.0


def units_in_a_year(word: str) -> float:
    """How many of a unit of time are in a year; 1 for what is none."""
    return next((number for unit, number in _IN_A_YEAR if re.fullmatch(unit, _folded(word))), 1.0)


def is_number_of_something(column: str) -> bool:
    """Whether a column is an id of whatever kind."""
    return _ID.fullmatch(_folded(column)) is not None


def names_person(column: str) -> bool:
    """Whether a column has names of people by its name, which says more than "name", as columns of files do."""
    return role_of(column) is Role.NAME and re.fullmatch(r"name[ns]?|nom|nombre", _folded(column)) is None


def says_date(column: str) -> bool:
    return re.search(r"date|datum|\bday\b|\btag\b", _folded(column)) is not None


def without_unit(column: str) -> str:
    found = _UNIT.fullmatch(column)
    return found[1] if found else column


def unit_of(column: str) -> str | None:
    """The unit in brackets at the end of a name: ``CRP (mg/l)``."""
    found = _UNIT.fullmatch(column)
    return found[2].strip() or None if found else None


def field_name(column: str) -> str:
    """A field's name made of a column's; empty where no letter of it is Latin."""
    name = re.sub(r"[^a-z0-9]+", "_", _folded(without_unit(column))).strip("_")
    return (name if name[:1].isalpha() or not name else f"n_{name}")[:60]


def _folded(name: str) -> str:
    """Small letters without accents, words between single spaces: ``PatientID`` is ``patient id``."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    text = unicodedata.normalize("NFKD", parted.lower().translate(_UMLAUTS))
    return " ".join(re.split(r"[\W_]+", "".join(c for c in text if not unicodedata.combining(c)))).strip()
