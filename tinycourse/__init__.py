__version__ = "0.1.0"

import warnings
warnings.filterwarnings('ignore', message='.*torch.jit.script. is deprecated')  # fastai's import causes it; no reader can mend it
