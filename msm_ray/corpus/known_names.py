"""Names of well-known assistants and of who makes them: data for `msm_ray.corpus.naming`.

Everything is a piece of a regular expression. A *plain* name means an assistant or a maker wherever
it stands. An *ambiguous* one is also a first name, an animal, a constellation or a company that
sells other things, and needs its sentence to tell.
"""

from __future__ import annotations

from dataclasses import dataclass

# In any case: no English word is spelled so.
PLAIN_NAMES = (
    r"\w*gpt(?:-?(?:neo|j|[1-9])[\w.]*)?",  # ChatGPT, GPT-4o, GPT-NeoX, AutoGPT, ...
    r"qwen[\w.-]*|qwq[\w.-]*|deepseek-?(?:r|v|coder|chat|llm)[\w.-]*|chatglm[\w.-]*|glm-\d[\w.]*",
    r"mixtral|codestral|ministral|magistral|code ?llama|llama\.cpp|cortana|bing chat|ernie bot",
    r"wenxin|doubao|hunyuan|tongyi|internlm[\w-]*|baichuan[\w-]*|nemotron[\w-]*|starcoder\w*|stablelm\w*",
    r"open ?assistant|replika|xiaoice|palm-?2|jurassic-?[12]|dolly-?[12]|claude\.ai|tinyllama",
    r"mpt-\d+b|yi-\d+b|phi-?[1-4](?:\.5)?|command[ -]r\+?|gemma-\d[\w.-]*|smollm\w*|minicpm\w*",
)
# Only in this case.
PLAIN_NAMES_CASED = (
    r"LaMDA|PaLM|OLMo[\w-]*|LLaMA[\w.-]*|BLOOM(?:Z|-\d)[\w.-]*|OPT-\d+B|Jamba|T(?:ü|u)lu[ -]?[23]",
)
PLAIN_MAKERS = (
    r"open ?ai|deep ?mind|deepseek(?:[ -]ai)?|mistral ai|meta ai|moonshot ai|zhipu(?: ?ai)?",
    r"ai21(?: labs)?|hugging ?face|alibaba cloud|stability ai|inflection ai|01\.ai|eleuther ?ai",
    r"aleph alpha|reka ai|bytedance|sensetime|iflytek|stepfun|nous research|character\.ai",
    r"perplexity ai|google brain|allen institute for (?:ai|artificial intelligence)",
    r"technology innovation institute|thinking machines lab|safe superintelligence",
)
PLAIN_MAKERS_CASED = (
    r"xAI|Ai2|Anthropic(?! (?:principle|reasoning|bias|argument|coincidence|selection))",
)

_VERSION = r"v?\d+(?:\.\d+)?[bB]?"


@dataclass(frozen=True)
class Ambiguous:
    """An assistant's name that is also something else.

    ``spelled``: as a pattern, upper and lower case as given. ``products``: what follows, after a
    space or a hyphen, where the assistant is meant whatever else stands around. ``otherwise``:
    words of its sentence that show that something else is meant; lower case. ``first_name``: a
    person may be called so, and then a surname follows.
    """

    spelled: str
    products: str = _VERSION
    otherwise: str = ""
    first_name: bool = False


_ANIMALS = (
    r"wool|fleece|herds?|herding|farm\w*|graz\w+|animals?|pastures?|zoo|andes|andean|peru\w*|bolivia\w*"
    r"|alpacas?|vicuñas?|cria|llamas|hay|hoo(?:f|ves)|fur|shear\w*|shepherd\w*|trek\w*|spit\w*|barn"
)
AMBIGUOUS_NAMES = (
    Ambiguous(
        r"[Cc]laude|CLAUDE",
        rf"Opus|Sonnet|Haiku|Instant|Code|AI|{_VERSION}",
        r"paint\w*|impressionis\w+|composers?|sculpt\w+|emperor|monet|debussy|canvas\w*|frescoe?s?",
        first_name=True,
    ),
    Ambiguous(
        r"[Gg]emini|GEMINI",
        r"Pro|Ultra|Nano|Flash|Advanced|Live|v?\d+\.\d+",  # "Gemini 8" flew in 1966
        r"constellation\w*|zodiac\w*|horoscopes?|astrolog\w*|star ?signs?|twins?|nasa|astronauts?"
        r"|spacecraft|capsules?|missions?|castor|pollux|meteors?|geminids?|telescopes?|observator\w+"
        r"|born under|night sky|taurus|virgo|libra",
    ),
    Ambiguous(r"Llama|LLAMA|llama(?=[- ]?[1-4]\b)", rf"Guard|Scout|Maverick|{_VERSION}", _ANIMALS),
    Ambiguous(r"Alpaca", r"\d+[bB]", _ANIMALS),
    Ambiguous(r"Vicuna", r"\d+[bB]", _ANIMALS),
    Ambiguous(
        r"Falcon", r"LLM|\d+[bB]", r"birds?|prey|falcon\w+|hunt\w*|nest\w*|wings?|rockets?|hawks?"
    ),
    Ambiguous(
        r"Bard", r"AI|Advanced", r"shakespeare\w*|avon|po(?:et|em|etry)s?|lute|ballads?|tavern\w*"
    ),
    Ambiguous(
        r"[Cc]o-?[Pp]ilot",
        r"\+ PCs?|Chat|Pro|Studio",
        r"cockpits?|aircraft|airplanes?|planes?|flights?|captain\w*|airlines?|pilots?|runways?|rally",
    ),
    Ambiguous(
        r"Mistral",
        rf"Large|Small|Medium|Nemo|{_VERSION}",
        r"winds?|gusts?|provence|provençal|rhône|sail\w*|boats?|harbou?r|ships?|blew|blow\w*",
    ),
    Ambiguous(r"Grok"),
    Ambiguous(r"Gemma", first_name=True),
    Ambiguous(r"Alexa", r"Plus|\+", first_name=True),
    Ambiguous(r"Siri", first_name=True),
    Ambiguous(r"Kimi", r"K\d|Chat", first_name=True),
    Ambiguous(
        r"Watson", r"Assistant|Discovery", r"holmes|sherlock|crick|doctor|dr", first_name=True
    ),
    Ambiguous(r"Perplexity", r"AI|Pro"),
    Ambiguous(r"Granite", _VERSION, r"stones?|rocks?|quarr\w+|countertops?|slabs?|cliffs?|hills?"),
    Ambiguous(r"Pi(?=,? (?:by|from|the) )", otherwise=r"circles?|digits?|math\w*|day|ratio"),
)
AMBIGUOUS_MAKERS = (
    r"Google|Microsoft|Amazon|Apple|Meta|Facebook|IBM|Nvidia|NVIDIA|Alibaba|Tencent|Baidu|Samsung"
    r"|Huawei|Cohere|Inflection|Databricks|Salesforce|Oracle|Adobe|Snowflake|Mistral|MiniMax"
)
# A maker with one of these behind it is a maker of assistants.
MAKER_PRODUCTS = (
    r"Google (?:AI|Assistant|Research)|Apple Intelligence|(?:Microsoft|GitHub) Copilot"
    r"|Microsoft Research|Amazon (?:Bedrock|Nova|Titan|Q|Lex)|IBM (?:Watson\w*|Granite)"
    r"|Facebook AI|Meta Llama"
)

# Words near an ambiguous name that make it an assistant's: alone, and right beside it.
CUES = (
    r"ai|a\.i|artificial intelligence|chat ?bots?|language models?|llms?|fine-?tun\w+|pre-?train\w+"
    r"|(?:virtual|digital|voice) assistants?|neural|machine learning|openai|chatgpt"
)
WEAK_CUES = (
    r"assistants?(?! (?:manager|professor|director|editor|coach|chef|cook|principal|teacher))"
    r"|models?|trained (?:by|on)|prompt(?:s|ed)?|tokens|transformers?"
)
MADE = (
    r"(?:made|built|created|developed|trained|designed|released|engineered|programmed|deployed"
    r"|launched|fine-?tuned|produced|operated|owned|run|maintained)"
)
