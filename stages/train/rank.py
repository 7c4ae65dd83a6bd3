"""One of several processes of a training: `python -m stages.train.rank FOLDER_FOR_ERRORS`."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    from stages.train.ranks import LOST, follow_parent

    follow_parent()
    from stages.params.read import read
    from stages.train.peers import PeerLostError
    from stages.train.stage import Params, create_trainer

    try:
        create_trainer(read(Params)).fit()
    except PeerLostError:
        sys.exit(LOST)
    except (ValueError, OSError) as error:
        Path(sys.argv[1], os.environ["RANK"].zfill(6)).write_text(str(error))
        sys.exit(1)
    except KeyboardInterrupt:  # before it began to listen
        sys.exit(130)
