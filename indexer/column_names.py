"""What the name of a table's column says it holds, in words of English, German, Spanish, French and, of who
somebody is, ten more languages.

A name is evidence, not proof: a draft writes down what it took a name for, and people check it.
"""

from __future__ import annotations

import re
import unicodedata
from enum import StrEnum

from cxrsearch.clinical.fields import PER_YEAR

_NUMBER_OF = (
    r"(id|ids|nr|no|num|number|nummer|numero|numer|numara|numarasi|codigo|codice|code|kod|kodu|key|identifier|uid"
    r"|kennung)"
)
_PEOPLE = (
    r"(patient|patienten|patientin|pat|paciente|paziente|pacjent|pacjenta|subject|proband|probanden|person|persona"
    r"|participant|case|fall|individual)"
)
_RECORDS = r"(chart|dossiers?|expediente|historia|prontuario|cartella|akte)"


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
_AGE_ABROAD = r"eta|idade|leeftijd|alder|wiek|yas|возраст|年龄"
# In order: the first that fits a name, folded to small letters and words between single spaces.
_PATTERNS: tuple[tuple[Role, str], ...] = (
    (Role.BIRTH, r".*\b(birth\w*|dateofbirth|born|[dy]ob|[dy] o b|geburt\w*|geb|geb(dat|jahr)\w*|ddn|naiss\w*)\b.*"),
    (Role.BIRTH, r".*\b(nacimiento|f(ec|echa)? ?(de )?nac|jahrgang|nascimento|nascita|geboorte\w*|geboren)\b.*"),
    (Role.BIRTH, r".*\b(foe?dsels\w*|foe?delse\w*|urodz\w*|dogum\w*|рожд\w*)\b.*|.*(出生|生日).*"),
    (Role.CONTACT, r".*\b(addr\w*|adresse|anschrift|street|strasse|phone\w*|tel|telefo\w*|mobile|e ?mail\w*).*"),
    (Role.CONTACT, r".*\b(direccion|domicilio|celular|movil|handy|fax|correo|codigo postal|postleitzahl)\b.*"),
    (Role.CONTACT, r".*\b(adres\w*|endereco|indirizzo|cellulare|адрес|телефон|город)\b.*|.*(地址|电话).*"),
    (Role.CONTACT, r"ort|city|town|ciudad|ville|cidade|comune|citta|sehir|miasto|miejscowosc|stad|gemeente|cep"),
    (Role.CONTACT, r".*\b(zip|zipcode|post ?code|postal ?code|plz|wohnort|home ?town|woonplaats)\b.*"),
    (Role.NUMBER, r".*\b(ssn|nhs|nhi|passport|iban|insurance|versicher\w*|krankenkasse\w*|social security)\b.*"),
    (Role.NUMBER, r".*\b(dni|nif|curp|nss|kv ?nr|sv ?nr|ausweis\w*|seguridad social|securite sociale|nir|iep)\b.*"),
    (Role.NUMBER, r".*\b(health ?card|medicare|cedula|rut|cpf|bsn|cpr|pesel|codice fiscale|kimlik|pnr|снилс)\b.*"),
    (Role.NUMBER, r"aktenzeichen|.*身份证.*"),
    (Role.STAFF, r".*\b(physician|doctor|radiologist|referr\w+|operator|technician|zuweiser|nurse|consultant)\b.*"),
    (Role.STAFF, r".*\b(medic[oa]|medecin|radiolog(o|a|in|ue)|befunder(in)?|untersucher(in)?|ueberweiser)\b.*"),
    (Role.STAFF, r".*\b(\w*arzt|\w*aerztin|(huis)?arts|laekare|laege|lekarz|doktor|dottore|doutor|hekim|врач)\b.*"),
    (
        Role.STAFF,
        r"gp|.*医[生师].*|.*\b(reported|read|signed|requested|ordered|performed|verified|approved|dictated) by\b.*",
    ),
    (Role.PATIENT, r"nhc|ipp|nip|uhid|urn|(\w+ )?mr ?(no|nr)|hosp(ital)? ?(no|nr|number|id)"),
    (Role.PATIENT, rf"(\w+ )?mrns?( ?([0-9]+|{_NUMBER_OF}))?|(\w+ )?rec(ord)? ?{_NUMBER_OF}|historia( clinica)?"),
    (Role.PATIENT, r"(ur|unit|journal|folder) ?(no|nr|number)"),
    (Role.PATIENT, rf"(n|{_NUMBER_OF}) (de |del |du |der )?{_RECORDS}( \w+)?|{_RECORDS} ?{_NUMBER_OF}|prontuario"),
    (Role.PATIENT, rf"{_NUMBER_OF} (de |del |du |des |der |do )?{_PEOPLE}"),
    (Role.PATIENT, rf"{_PEOPLE}|({_PEOPLE} ?{_NUMBER_OF})|(pt|hasta) ?{_NUMBER_OF}|pid"),
    (Role.PATIENT, r"номер (карты|пациента)|.*(病历|病案|患者|住院|门诊)(编?号|id)"),
    (Role.STUDY, rf"accession( ?{_NUMBER_OF})?|(study|exam|examination|untersuchungs?)( instance)? ?{_NUMBER_OF}"),
    (Role.STUDY, rf"acc ?{_NUMBER_OF}"),
    (Role.NAME, r"(.*\b)?(patient(en)?|pat|vor|nach|familien)? ?name[ns]?( (of|des|der))?( \w+)?"),
    (Role.NAME, r"(.*\b)?(sur|first|last|middle|given|family|full)name[ns]?( \w+)?"),
    (Role.NAME, r".*\b(surname|firstname|lastname|vorname|nachname|familienname|prenom|nom|apellidos?|nombres?)\b.*"),
    (Role.NAME, r".*\b(cognome|nome|sobrenome|apelido|\w*naam|\w*namn|\w*navn|nazwisko|imie|imiona|soyadi?|isim)\b.*"),
    (Role.NAME, r"adi?|.*\b(фамилия|имя|отчество|фио)\b.*|.*(姓名|名字|曾用名).*|姓|名"),
    (Role.NAME, r"initial(s|en|es)|iniciales|kuerzel|titular|pname"),
    (Role.FREE_TEXT, r".*\b(notes?|comments?|remarks?|bemerkung\w*|kommentar\w*|free ?text|freitext)\b.*"),
    (Role.FREE_TEXT, r".*\b(anmerkung\w*|anamnes\w*|observacion\w*|comentarios?|commentaires?|remarques?)\b.*"),
    (Role.FREE_TEXT, r".*\b(opmerking\w*|toelichting|anteckning\w*|bemaerkning\w*|uwagi|observac(ao|oes))\b.*"),
    (Role.FREE_TEXT, r".*\b(osservazion[ei]|aciklama\w*|notlar|commenti|commentaar|примечани\w+)\b.*|.*备注.*"),
    (
        Role.STUDY_DATE,
        r"((study|exam|examination|acquisition|image|x ?ray|scan|visit) )?(date|datum)( of (study|exam))?",
    ),
    (Role.STUDY_DATE, r"(untersuchungs|aufnahme|studien|bild|onderzoeks)(datum|tag)|studydate|examdate|datetime"),
    (Role.VIEW, r"(x ?ray )?(view|view ?position|projection|projektion|ansicht|strahlengang)"),
    (Role.SITE, r"(hospital|site|cent(er|re)|institution|klinik|krankenhaus|standort|clinic|location)( name)?"),
    (Role.SITE, r"ospedale|ziekenhuis|sjukhus|szpital|hastane"),
    (Role.AGE, rf"((patient|pat) ?)?(age|alter|edad|{_AGE_ABROAD})( (at|in|bei|al|en) .*| years| jahre| anos| ans)?"),
    (Role.AGE, r"(age|edad) (de |du |del )?(patient|paciente)"),
    (Role.SEX, r"((patient|pat) ?)?(sexe?|gender|geschlecht|sexo|sesso|geslacht|koen|plec|cinsiyet|пол|性别)"),
    (Role.FINDING, r"(image |x ?ray )?(findings?|labels?|finding labels?|diagnos\w+|pathology|befunde?|class)"),
)
_OUTCOME = re.compile(
    r".*\b(outcomes?|surviv\w*|died|death\w*|dead|deceased|mortal\w*|icu|intensiv\w*|(in|ex)tubat\w*|ventilat\w*|beatm\w*"
    r"|discharg\w*|entlass\w*|verstorb\w*|tod\w*|gestorben|length of stay|los|liegedauer|readmi\w*|relapse|ecmo"
    r"|recover\w*|supplemental|ausgang|verlauf|ueberlebt)\b.*"
)
# What has a name without being a person.
_THINGS = re.compile(
    r".*\b(file|image|bild|datei|scan|site|hospital|cent(er|re)|device|study|series|column|drug|model|archivo|imagen|fichier"
    r"|immagine|arquivo|imagem|bestand|bestandsnaam|plik|pliku|fil|filnamn|filnavn|dosya)\b.*"
)
# Turkish for name, and short for other things.
_SHORT_NAME = re.compile(r"adi?")
_SAYS_PATIENT = re.compile(rf".*(\b({_PEOPLE}|pid)( ?{_NUMBER_OF})?\b|\bmrns?\b|пациент|患者).*")
_ONLY_NAME = re.compile(r"name[ns]?|nom|nombre|nome|naam|namn|navn|adi?")
# Facts of patients and of images that no role stands for.
_FACT = re.compile(
    r".*\b(side|laterality|seite|lado|ward|station|department|abteilung|modality|manufacturer|scanner|position"
    r"|severity|stage|grade|score|smok\w*|weight|height|bmi|gewicht|groesse|peso|width|rows|columns|bits|offset"
    r"|follow ?up|temperature|pulse|saturation|count)\b.*"
)
# What dates of something that was done are called; a date alone too.
_EVENT = re.compile(
    r"date|datum|fecha|data|dato|tarihi?|дата|日期|.*\b(stud[iy]\w*|exam\w*|scan\w*|acqui\w*|imag\w*|x ?ray|cxr"
    r"|visit\w*|seen|admi\w+|onset|symptom\w*|test\w*|pcr|sampl\w*|treat\w*|therap\w*|surg\w*|follow ?up"
    r"|report\w*|diagnos\w*|untersuchung\w*|aufnahme\w*|bild\w*|befund\w*|entnahme\w*|besuch\w*|estudio"
    r"|year|jahr|ano|annee|proc\w*|series|content|collect\w*|op|operation|timestamp|vaccin\w*|swab|performed|done"
    r"|esame|ingreso|ricovero|consulta|onderzoek\w*|opname\w*|undersoek\w*|badani\w*|przyjeci\w*|cekim|tetkik|muayene)\b.*"
)
_ID = re.compile(rf"(.* )?({_NUMBER_OF}|\w+(nummer|nr|number|numero))|#")
# A word that names an age, "Altersgruppe" too, and how many of another unit than years are in a year.
_AGE = re.compile(rf"(patient|pat)?ages?|edad(es)?|alter|alters\w*|(lebens|patienten?)alter\w*|{_AGE_ABROAD}")
_IN_A_YEAR = (
    (r"mo|months?|monate?n?|mes(?:es)?|mois", PER_YEAR["M"]),
    (r"wk|weeks?|wochen?|semanas?|semaines?", PER_YEAR["W"]),
    (r"days?|tage?n?|dias?|jours?", PER_YEAR["D"]),
)
_MEASURE = re.compile(
    r".*[/%\u00b0].*|[cmn\u00b5\u03bc]?m|[km]?g|[md]?l|[mk]?u|[km]?pa|mmhg|bpm|msv|mgy|kv|mas|h|min|m?s|days|years|tage|jahre",
    re.IGNORECASE,
)
_UNIT = re.compile(r"(.+?)\s*[(\[]([^()\[\]]{1,15})[)\]]")
# Letters that Unicode does not part into a Latin letter and an accent, and those that German writes as two.
_UMLAUTS = str.maketrans(
    {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "æ": "ae", "ø": "oe", "ł": "l", "đ": "d", "\u0131": "i"}
)


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


def says_number(column: str) -> bool:
    """Whether any word of a column's name is one for a number or a code of something."""
    return any(_ID.fullmatch(word) for word in _folded(column).split())


def names_person(column: str) -> bool:
    """Whether a column has names of people by its name, which says more than "name", as columns of files do."""
    return role_of(column) is Role.NAME and _ONLY_NAME.fullmatch(_folded(column)) is None


def may_be_answered(column: str) -> bool:
    """Whether a column whose name is of persons, staff or their numbers is a fact where its cells are yes and no."""
    role, is_short = role_of(column), _SHORT_NAME.fullmatch(_folded(column)) is not None
    return role in (Role.NUMBER, Role.STAFF) or (role is Role.NAME and is_short)


def says_patient(column: str) -> bool:
    """Whether a column's name has a word for patients, which says more than "unit no" does."""
    return _SAYS_PATIENT.fullmatch(_folded(column)) is not None


def is_fact(column: str) -> bool:
    """Whether a column by its name has facts of patients or of images, though none of a role."""
    return _FACT.fullmatch(_folded(column)) is not None


def is_event(column: str) -> bool:
    """Whether a column by its name says when something was done or seen."""
    return _EVENT.fullmatch(_folded(column)) is not None


def says_date(column: str) -> bool:
    return re.search(r"date|datum|\bday\b|\btag\b", _folded(column)) is not None


def without_unit(column: str) -> str:
    found = _UNIT.fullmatch(column)
    return found[1] if found else column


def unit_of(column: str) -> str | None:
    """The unit in brackets at the end of a name: ``CRP (mg/l)``."""
    found = _UNIT.fullmatch(column)
    return found[2].strip() or None if found else None


def is_measure(unit: str | None) -> bool:
    """Whether what stands beside a number is a unit of measurement: brackets and endings may be anything."""
    return unit is not None and _MEASURE.fullmatch(unit) is not None


def field_name(column: str) -> str:
    """A field's name made of a column's; empty where no letter of it is Latin."""
    name = re.sub(r"[^a-z0-9]+", "_", _folded(without_unit(column))).strip("_")
    return (name if name[:1].isalpha() or not name else f"n_{name}")[:60]


def _folded(name: str) -> str:
    """Small letters without accents, words between single spaces: ``PatientID`` is ``patient id``."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    text = unicodedata.normalize("NFKD", parted.lower().translate(_UMLAUTS))
    return " ".join(re.split(r"[\W_]+", "".join(c for c in text if not unicodedata.combining(c)))).strip()
