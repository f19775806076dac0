"""`python -m patching.models`: train the toy model anew, in place."""

from patching.models.toy_training import main

if __name__ == "__main__":
    main()
