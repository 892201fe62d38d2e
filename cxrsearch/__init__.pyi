from cxrsearch.archive import Archive as Archive
from cxrsearch.archive import open_archive as open
from cxrsearch.encoder import Encoder as Encoder
from cxrsearch.errors import CxrSearchError as CxrSearchError
from cxrsearch.results import Cohort as Cohort
from cxrsearch.results import Embeddings as Embeddings
from cxrsearch.results import Hits as Hits

__version__: str
__all__ = ["Archive", "Cohort", "CxrSearchError", "Embeddings", "Encoder", "Hits", "__version__", "open"]
